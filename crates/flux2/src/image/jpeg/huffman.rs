//! Huffman tables and the bits of a scan.

use super::{Fault, Result};

/// Codes of at most this many bits are decoded by one table look-up.
const FAST_BITS: u32 = 9;

/// A Huffman table.
pub(super) struct Table {
    /// For the next [`FAST_BITS`] bits: symbol, and length of its code in the high byte, 0 if the code is longer.
    fast: [u16; 1 << FAST_BITS],
    /// For each length: one over the last code, left-aligned to 16 bits.
    limits: [u32; 17],
    /// For each length: add the code for the index of its symbol.
    offsets: [i32; 17],
    symbols: Vec<u8>,
}

impl Table {
    /// A table from the number of codes of each length from 1 to 16, and their symbols.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Result<Self> {
        let mut table =
            Self { fast: [0; 1 << FAST_BITS], limits: [0; 17], offsets: [0; 17], symbols: symbols.to_vec() };
        let (mut code, mut index) = (0u32, 0usize);
        for (length, &count) in (1..=16u32).zip(counts) {
            table.offsets[length as usize] = index as i32 - code as i32;
            for &symbol in &symbols[index..index + usize::from(count)] {
                if code >> length != 0 {
                    return Err(Fault::Broken("a Huffman table has too many codes"));
                }
                if length <= FAST_BITS {
                    let shift = FAST_BITS - length;
                    let entry = (length as u16) << 8 | u16::from(symbol);
                    table.fast[(code << shift) as usize..((code + 1) << shift) as usize].fill(entry);
                }
                code += 1;
            }
            index += usize::from(count);
            table.limits[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Ok(table)
    }
}

/// The bits of one scan, up to its next marker.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// Next byte to load.
    at: usize,
    /// Loaded bits, left-aligned; zeros after them.
    loaded: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, loaded: 0, count: 0 }
    }

    /// Where the next marker is looked for: not before the last byte that was loaded whole.
    pub(super) fn end(&self) -> usize {
        self.at
    }

    /// Load bytes until there are over 48 bits or a marker comes.
    fn load(&mut self) {
        while self.count <= 56 {
            let Some(&byte) = self.bytes.get(self.at) else { return };
            if byte == 0xff {
                // 0xff is followed by zero; other 0xff between them are fill bytes.
                let rest = &self.bytes[self.at + 1..];
                let fill = rest.iter().take_while(|&&byte| byte == 0xff).count();
                match rest.get(fill) {
                    Some(0) => self.at += fill + 1,
                    _ => return,
                }
            }
            self.at += 1;
            self.loaded |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    fn skip(&mut self, bits: u32) -> Result<()> {
        // The stream has ended within a code.
        self.count = self.count.checked_sub(bits).ok_or(Fault::CutShort)?;
        self.loaded <<= bits;
        Ok(())
    }

    /// The next `bits` bits, at most 16.
    pub(super) fn take(&mut self, bits: u32) -> Result<u32> {
        if bits == 0 {
            return Ok(0);
        }
        if self.count < bits {
            self.load();
        }
        let value = (self.loaded >> (64 - bits)) as u32;
        self.skip(bits)?;
        Ok(value)
    }

    /// A value whose `size` was coded before it: the lower half of its range stands for negative numbers.
    pub(super) fn signed(&mut self, size: u32) -> Result<i32> {
        let value = self.take(size)? as i32;
        Ok(if size != 0 && value >> (size - 1) == 0 { value - (1 << size) + 1 } else { value })
    }

    /// The next symbol.
    pub(super) fn symbol(&mut self, table: &Table) -> Result<u8> {
        if self.count < 16 {
            self.load();
        }
        let fast = table.fast[(self.loaded >> (64 - FAST_BITS)) as usize];
        if fast >> 8 != 0 {
            self.skip(u32::from(fast >> 8))?;
            return Ok(fast as u8);
        }
        let next = (self.loaded >> 48) as u32;
        let Some(length) = (FAST_BITS + 1..=16).find(|&length| next < table.limits[length as usize]) else {
            // Zeros after the end may look like any code.
            return Err(if self.count < 16 { Fault::CutShort } else { BAD_CODE });
        };
        self.skip(length)?;
        let index = (next >> (16 - length)) as i32 + table.offsets[length as usize];
        usize::try_from(index).ok().and_then(|index| table.symbols.get(index)).copied().ok_or(BAD_CODE)
    }

    /// Drop what is left of the byte, and read restart marker `number`.
    pub(super) fn restart(&mut self, number: usize) -> Result<()> {
        // Bytes that are loaded already would come before the marker.
        if self.count >= 8 {
            return Err(Fault::Broken("its data is longer than a restart interval"));
        }
        (self.loaded, self.count) = (0, 0);
        let fill = self.bytes.get(self.at..).unwrap_or_default();
        self.at += fill.windows(2).take_while(|pair| pair == b"\xff\xff").count();
        match self.bytes.get(self.at..self.at + 2) {
            Some(&[0xff, marker @ 0xd0..=0xd7]) if usize::from(marker - 0xd0) == number % 8 => self.at += 2,
            Some([0xff, 0xd0..=0xd7]) => return Err(Fault::Broken("its restart markers are out of order")),
            Some([0xff, marker]) if *marker != 0 => return Err(Fault::CutShort),
            None => return Err(Fault::CutShort),
            Some(_) => return Err(Fault::Broken("a restart marker is missing")),
        }
        Ok(())
    }
}

/// The error for bits that are no code.
pub(super) const BAD_CODE: Fault = Fault::Broken("its compressed data is damaged");

fn standard(counts: [u8; 16], symbols: &[u8]) -> Table {
    Table::new(&counts, symbols).expect("a table of the standard")
}

/// DC tables that a file need not contain: frames of Motion JPEG leave them out. Source: T.81, tables K.3 and K.4.
pub(super) fn standard_dc() -> [Table; 4] {
    let symbols: [u8; 12] = std::array::from_fn(|i| i as u8);
    let luma = || standard([0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], &symbols);
    let chroma = || standard([0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0], &symbols);
    [luma(), chroma(), none(), none()]
}

/// AC tables that a file need not contain. Source: T.81, tables K.5 and K.6.
pub(super) fn standard_ac() -> [Table; 4] {
    #[rustfmt::skip]
    const LUMA: [u8; 162] = [
        0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07, 0x22, 0x71,
        0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52, 0xd1, 0xf0, 0x24, 0x33, 0x62, 0x72,
        0x82, 0x09, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x34, 0x35, 0x36, 0x37,
        0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59,
        0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x83,
        0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3,
        0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3,
        0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe1, 0xe2,
        0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa,
    ];
    #[rustfmt::skip]
    const CHROMA: [u8; 162] = [
        0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71, 0x13, 0x22,
        0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33, 0x52, 0xf0, 0x15, 0x62, 0x72, 0xd1,
        0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1, 0x17, 0x18, 0x19, 0x1a, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x35, 0x36,
        0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58,
        0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a,
        0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a,
        0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba,
        0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda,
        0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa,
    ];
    let luma = || standard([0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7d], &LUMA);
    let chroma = || standard([0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 0x77], &CHROMA);
    [luma(), chroma(), none(), none()]
}

/// A table without codes.
fn none() -> Table {
    standard([0; 16], &[])
}
