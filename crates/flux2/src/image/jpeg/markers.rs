//! Segments of a JPEG file: frame, tables, scan headers, metadata.

use super::huffman::{self, Table};
use super::output::Color;
use super::{Fault, Result, zeros};

/// What the data of a segment begins with that holds a part of the color profile.
pub(super) const PROFILE: &[u8] = b"ICC_PROFILE\0";

/// One color component of the frame.
pub(super) struct Component {
    pub(super) id: u8,
    /// Sampling factors: blocks in an interleaved unit.
    pub(super) h: usize,
    pub(super) v: usize,
    quantization: usize,
    /// Samples that belong to the picture.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Blocks in memory, a whole number of interleaved units.
    pub(super) blocks_wide: usize,
    pub(super) blocks_high: usize,
    /// Steps of its coefficients, as they were at its first scan.
    pub(super) steps: Option<[u16; 64]>,
    /// Samples `[blocks_high * 8, blocks_wide * 8]`.
    pub(super) samples: Vec<u8>,
    /// Of a progressive frame: `[blocks_high, blocks_wide, 64]`.
    pub(super) coefficients: Vec<i16>,
    /// Of a progressive frame, for each coefficient in zigzag order: bits that are still to be sent.
    pub(super) bits_left: [Option<u8>; 64],
    /// Of a sequential frame: whether its scan was decoded.
    pub(super) is_sent: bool,
}

/// A picture's size and components.
pub(super) struct Frame {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) is_progressive: bool,
    pub(super) components: Vec<Component>,
    /// Largest sampling factors.
    pub(super) h_max: usize,
    pub(super) v_max: usize,
}

impl Frame {
    /// Whether every block was sent to its last bit.
    pub(super) fn is_complete(&self) -> bool {
        self.components.iter().all(|component| match self.is_progressive {
            true => component.bits_left == [Some(0); 64],
            false => component.is_sent,
        })
    }

    /// Blocks that the file must hold.
    pub(super) fn blocks(&self) -> usize {
        self.components.iter().map(|c| c.width.div_ceil(8) * c.height.div_ceil(8)).sum()
    }

    /// Bytes that its samples and coefficients take, once there are all.
    pub(super) fn memory(&self) -> usize {
        let samples: usize = self.components.iter().map(|c| c.blocks_wide * c.blocks_high * 64).sum();
        samples * if self.is_progressive { size_of::<u8>() + size_of::<i16>() } else { size_of::<u8>() }
    }

    fn parse(data: &[u8], is_progressive: bool) -> Result<Self> {
        let [precision, y1, y0, x1, x0, count, components @ ..] = data else {
            return Err(Fault::Broken("its frame header is too short"));
        };
        let (width, height) = (u16::from_be_bytes([*x1, *x0]).into(), u16::from_be_bytes([*y1, *y0]).into());
        let (components, rest) = components.as_chunks::<3>();
        if components.len() != usize::from(*count) || !rest.is_empty() {
            return Err(Fault::Broken("its frame header has another length than it says"));
        }
        if *precision != 8 {
            return Err(Fault::Unsupported("its samples have more than 8 bits"));
        }
        if !matches!(components.len(), 1 | 3 | 4) {
            return Err(Fault::Unsupported("it has neither 1, 3 nor 4 color components"));
        }
        if height == 0 {
            return Err(Fault::Unsupported("its height is not in its header"));
        }
        if width == 0 {
            return Err(Fault::Broken("it is 0 pixels wide"));
        }
        let factors = components.iter().map(|&[_, hv, _]| (usize::from(hv >> 4), usize::from(hv & 15)));
        if !factors.clone().all(|(h, v)| (1..=4).contains(&h) && (1..=4).contains(&v)) {
            return Err(Fault::Broken("a sampling factor is not 1 to 4"));
        }
        let h_max = factors.clone().map(|(h, _)| h).max().unwrap_or(1);
        let v_max = factors.clone().map(|(_, v)| v).max().unwrap_or(1);
        if !factors.clone().all(|(h, v)| h_max % h == 0 && v_max % v == 0) {
            return Err(Fault::Unsupported("a sampling ratio is not a whole number"));
        }
        let (units_wide, units_high) = ((width as usize).div_ceil(8 * h_max), (height as usize).div_ceil(8 * v_max));
        let components = components
            .iter()
            .map(|&[id, hv, quantization]| {
                let (h, v) = (usize::from(hv >> 4), usize::from(hv & 15));
                Component {
                    id,
                    h,
                    v,
                    quantization: usize::from(quantization),
                    width: (width as usize * h).div_ceil(h_max),
                    height: (height as usize * v).div_ceil(v_max),
                    blocks_wide: units_wide * h,
                    blocks_high: units_high * v,
                    steps: None,
                    samples: vec![],
                    coefficients: vec![],
                    bits_left: [None; 64],
                    is_sent: false,
                }
            })
            .collect();
        Ok(Self { width, height, is_progressive, components, h_max, v_max })
    }
}

/// A scan header: which components, with which tables, which coefficients and bits.
pub(super) struct ScanHeader {
    /// Component, DC table, AC table.
    pub(super) components: Vec<(usize, usize, usize)>,
    /// First and last coefficient in zigzag order.
    pub(super) band: (usize, usize),
    /// Lowest bit that earlier scans sent, and that this one sends.
    pub(super) bits: (u8, u8),
}

/// Where [`Reader::next`] stopped.
pub(super) enum Stop {
    /// After the frame header.
    Frame,
    /// Before the data of a scan.
    Scan(ScanHeader),
    /// At the end of the picture or the file.
    End,
}

/// What the application segments say about color.
#[derive(Default)]
pub(super) struct Colors {
    has_jfif: bool,
    /// Color transform of the Adobe segment.
    adobe: Option<u8>,
}

impl Colors {
    /// As libjpeg decides: JFIF beats Adobe beats the numbers of the components.
    pub(super) fn of(&self, frame: &Frame) -> Color {
        let ids: Vec<u8> = frame.components.iter().map(|component| component.id).collect();
        match (ids.as_slice(), self.adobe) {
            ([_], _) => Color::Gray,
            ([_, _, _], _) if self.has_jfif => Color::YCbCr,
            ([_, _, _], Some(0)) | (b"RGB", None) => Color::Rgb,
            ([_, _, _], _) => Color::YCbCr,
            (_, None | Some(0)) => Color::Cmyk,
            (_, Some(_)) => Color::Ycck,
        }
    }
}

/// Reads a file segment by segment.
pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
    /// Where the next marker is looked for.
    pub(super) at: usize,
    pub(super) frame: Option<Frame>,
    pub(super) dc_tables: [Table; 4],
    pub(super) ac_tables: [Table; 4],
    quantization: [Option<[u16; 64]>; 4],
    /// Interleaved units between two restart markers; 0 for none.
    pub(super) restart_interval: usize,
    pub(super) colors: Colors,
    /// Parts of the profile: number, of how many, data.
    pub(super) profile: Vec<(u8, u8, &'a [u8])>,
    pub(super) exif: Vec<&'a [u8]>,
}

impl<'a> Reader<'a> {
    /// A reader of a file that starts with the start-of-image marker.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 2,
            frame: None,
            dc_tables: huffman::standard_dc(),
            ac_tables: huffman::standard_ac(),
            quantization: [None; 4],
            restart_interval: 0,
            colors: Colors::default(),
            profile: vec![],
            exif: vec![],
        }
    }

    /// The next marker that is not a restart. Bytes between segments are skipped, as every decoder does.
    fn marker(&mut self) -> Option<u8> {
        loop {
            let from = self.bytes.get(self.at..)?;
            let found = from.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff))?;
            self.at += found + 2;
            match from[found + 1] {
                0x01 | 0xd0..=0xd7 => {}
                marker => return Some(marker),
            }
        }
    }

    /// Read segments up to the next stop.
    pub(super) fn next(&mut self) -> Result<Stop> {
        let bytes = self.bytes;
        loop {
            let marker = match self.marker() {
                None | Some(0xd9) => return Ok(Stop::End),
                Some(0xd8) => return Err(Fault::Broken("a second picture starts before the first is complete")),
                Some(marker) => marker,
            };
            let length = bytes.get(self.at..self.at + 2).ok_or(Fault::CutShort)?;
            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
            let end = self.at + length.max(2);
            let data = bytes.get(self.at + 2..end).ok_or(Fault::CutShort)?;
            self.at = end;
            match marker {
                0xc0..=0xc2 => {
                    if self.frame.is_some() {
                        return Err(Fault::Broken("it has two frame headers"));
                    }
                    self.frame = Some(Frame::parse(data, marker == 0xc2)?);
                    return Ok(Stop::Frame);
                }
                0xc4 => self.huffman_tables(data)?,
                0xc3 => return Err(Fault::Unsupported("lossless coding")),
                0xc9..=0xcb => return Err(Fault::Unsupported("arithmetic coding")),
                0xc5..=0xc7 | 0xcd..=0xcf => return Err(Fault::Unsupported("hierarchical coding")),
                0xda => return self.scan_header(data).map(Stop::Scan),
                0xdb => self.quantization_tables(data)?,
                0xdd => match data {
                    [high, low] => self.restart_interval = usize::from(u16::from_be_bytes([*high, *low])),
                    _ => return Err(Fault::Broken("its restart interval has a wrong length")),
                },
                0xe0 if data.starts_with(b"JFIF\0") => self.colors.has_jfif = true,
                0xe1 => self.exif.extend(data.strip_prefix(b"Exif\0\0")),
                0xe2 => {
                    if let Some([number, of, part @ ..]) = data.strip_prefix(PROFILE) {
                        self.profile.push((*number, *of, part));
                    }
                }
                0xee if data.starts_with(b"Adobe") => self.colors.adobe = data.get(11).copied().or(self.colors.adobe),
                _ => {}
            }
        }
    }

    fn huffman_tables(&mut self, mut data: &[u8]) -> Result<()> {
        while let [class_and_slot, rest @ ..] = data {
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or(Fault::Broken("a Huffman table is too short"))?;
            let symbols = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) =
                rest.split_at_checked(symbols).ok_or(Fault::Broken("a Huffman table is too short"))?;
            let tables = match class_and_slot >> 4 {
                0 => &mut self.dc_tables,
                1 => &mut self.ac_tables,
                _ => return Err(Fault::Broken("a Huffman table has an unknown class")),
            };
            let slot = tables.get_mut(usize::from(class_and_slot & 15));
            *slot.ok_or(Fault::Broken("a Huffman table has a number over 3"))? = Table::new(counts, symbols)?;
            data = rest;
        }
        Ok(())
    }

    fn quantization_tables(&mut self, mut data: &[u8]) -> Result<()> {
        let short = Fault::Broken("a quantization table is too short");
        while let [precision_and_slot, rest @ ..] = data {
            let wide = precision_and_slot >> 4 != 0;
            let Some((steps, rest)) = rest.split_at_checked(if wide { 128 } else { 64 }) else { return Err(short) };
            let step = |i: usize| match wide {
                true => u16::from_be_bytes([steps[2 * i], steps[2 * i + 1]]),
                false => steps[i].into(),
            };
            let slot = self.quantization.get_mut(usize::from(precision_and_slot & 15));
            *slot.ok_or(Fault::Broken("a quantization table has a number over 3"))? = Some(std::array::from_fn(step));
            data = rest;
        }
        Ok(())
    }

    fn scan_header(&mut self, data: &[u8]) -> Result<ScanHeader> {
        let broken = Fault::Broken("a scan header contradicts itself");
        let frame = self.frame.as_mut().ok_or(Fault::Broken("a scan comes before the frame header"))?;
        let Some((&count, rest)) = data.split_first() else { return Err(broken) };
        let Some((selectors, &[first, last, bits, ..])) = rest.split_at_checked(2 * usize::from(count)) else {
            return Err(broken);
        };
        let mut components: Vec<(usize, usize, usize)> = vec![];
        for &[id, tables] in selectors.as_chunks::<2>().0 {
            let is_new = |&(i, c): &(usize, &Component)| c.id == id && components.iter().all(|&(seen, ..)| seen != i);
            let found = frame.components.iter().enumerate().find(is_new);
            let (index, _) = found.ok_or(Fault::Broken("a scan is of a component that the frame does not have"))?;
            if tables >> 4 > 3 || tables & 15 > 3 {
                return Err(broken);
            }
            components.push((index, usize::from(tables >> 4), usize::from(tables & 15)));
        }
        let band = (usize::from(first), usize::from(last));
        let bits = (bits >> 4, bits & 15);
        // Some programs write another band for a sequential frame, which always has all coefficients.
        if components.is_empty() || band.0 > 63 || band.1 > 63 || !frame.is_progressive && bits != (0, 0) {
            return Err(broken);
        }
        if frame.is_progressive {
            let is_dc = band == (0, 0);
            let is_ac = (1..=63).contains(&band.0) && (band.0..=63).contains(&band.1) && components.len() == 1;
            let is_refinement = bits.0 != 0;
            if !(is_dc || is_ac) || bits.1 > 13 || is_refinement && bits.1 + 1 != bits.0 {
                return Err(broken);
            }
        }
        for &(index, ..) in &components {
            let component = &mut frame.components[index];
            if frame.is_progressive {
                // Each bit is sent once, from high to low: this bounds the work too.
                for left in &mut component.bits_left[band.0..=band.1] {
                    if *left != (bits.0 != 0).then_some(bits.0) {
                        return Err(Fault::Broken("its scans are out of order"));
                    }
                    *left = Some(bits.1);
                }
                if component.coefficients.is_empty() {
                    component.coefficients = zeros(component.blocks_wide * component.blocks_high * 64)?;
                }
            } else if component.is_sent {
                return Err(Fault::Broken("a component is sent twice"));
            }
            if component.steps.is_none() {
                let steps = self.quantization.get(component.quantization).copied().flatten();
                component.steps = Some(steps.ok_or(Fault::Broken("a quantization table is missing"))?);
            }
            if component.samples.is_empty() {
                component.samples = zeros(component.blocks_wide * component.blocks_high * 64)?;
            }
        }
        Ok(ScanHeader { components, band, bits })
    }
}

/// The color profile, if all its parts are there.
pub(super) fn profile(parts: &[(u8, u8, &[u8])]) -> Option<Vec<u8>> {
    let &(_, of, _) = parts.first()?;
    let mut profile = vec![];
    for number in 1..=of {
        profile.extend_from_slice(parts.iter().find(|part| part.0 == number)?.2);
    }
    Some(profile)
}
