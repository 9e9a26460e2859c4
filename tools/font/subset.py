"""Makes crates/flux2/assets/font/DejaVuSans.ttf, the font of contact sheets: DejaVu Sans 2.37 with fewer characters.

    pip install fonttools==4.68.0
    python tools/font/subset.py /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf

The font is in Debian's package fonts-dejavu-core 2.37.
"""

import sys
from pathlib import Path

from fontTools import subset

OUTPUT = Path(__file__).parents[2] / "crates/flux2/assets/font/DejaVuSans.ttf"

# Latin with Vietnamese and Pinyin, Greek, Cyrillic, and the punctuation and signs that go with them.
CHARACTERS = (
    "U+20-7E,U+A0-17F,U+18F,U+192,U+1A0-1A1,U+1AF-1B0,U+1CD-1DC,U+1E6-1E7,U+1FA-1FF,U+218-21B,U+2C6-2DD,"
    "U+370-3FF,U+400-45F,U+490-493,U+1E80-1E85,U+1E9E,U+1EA0-1EF9,U+2010-2027,U+2030-203A,U+20AC,U+2122,"
    "U+2190-2193,U+2212,U+2248,U+2260-2265"
)

subset.main([
    sys.argv[1],
    f"--unicodes={CHARACTERS}",
    "--no-hinting",
    "--layout-features=",
    "--drop-tables+=GDEF,GSUB,GPOS,kern,FFTM,gasp,meta,DSIG,MATH",
    "--name-IDs=0,1,2,4,5,6,13,14",
    f"--output-file={OUTPUT}",
])
