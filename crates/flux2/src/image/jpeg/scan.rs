//! One scan: symbols to coefficients; for a sequential frame, on to samples.

use super::huffman::{BAD_CODE, Bits, Table};
use super::idct;
use super::markers::{Component, Reader, ScanHeader};
use super::{Fault, Result};

/// Row-major place of each coefficient in the order of the file. Source: T.81, figure A.6.
#[rustfmt::skip]
pub(super) const ZIGZAG: [u8; 64] = [
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// What carries over from block to block, until a restart marker.
#[derive(Default)]
struct State {
    /// Last DC value of each component.
    dc: [i32; 4],
    /// Blocks that follow without a coefficient of their own in this band.
    blocks_to_skip: u32,
}

impl Reader<'_> {
    /// Decode the scan of `header`, whose data comes next.
    pub(super) fn scan(&mut self, header: &ScanHeader) -> Result<()> {
        let frame = self.frame.as_mut().ok_or(Fault::Broken("a scan comes before the frame header"))?;
        let mut bits = Bits::new(self.bytes, self.at);
        let mut state = State::default();
        // One component alone has blocks of its own; several come in units, padded at the right and the bottom.
        let alone = header.components.len() == 1;
        let first = &frame.components[header.components[0].0];
        let (units_wide, units_high) = match alone {
            true => (first.width.div_ceil(8), first.height.div_ceil(8)),
            false => (first.blocks_wide / first.h, first.blocks_high / first.v),
        };
        for unit in 0..units_wide * units_high {
            if self.restart_interval != 0 && unit != 0 && unit % self.restart_interval == 0 {
                bits.restart(unit / self.restart_interval - 1)?;
                state = State::default();
            }
            let (unit_x, unit_y) = (unit % units_wide, unit / units_wide);
            for &(index, dc_table, ac_table) in &header.components {
                let component = &mut frame.components[index];
                let tables = (&self.dc_tables[dc_table], &self.ac_tables[ac_table]);
                let (h, v) = if alone { (1, 1) } else { (component.h, component.v) };
                for y in unit_y * v..(unit_y + 1) * v {
                    for x in unit_x * h..(unit_x + 1) * h {
                        match frame.is_progressive {
                            true => progressive(&mut bits, &mut state, header, index, component, (x, y), tables)?,
                            false => sequential(&mut bits, &mut state.dc[index], component, (x, y), tables)?,
                        }
                    }
                }
            }
        }
        for &(index, ..) in &header.components {
            frame.components[index].is_sent = true;
        }
        self.at = bits.end();
        Ok(())
    }
}

/// The difference of a DC value to that of the block before.
fn dc_difference(bits: &mut Bits<'_>, table: &Table) -> Result<i32> {
    match bits.symbol(table)? {
        size @ 0..=15 => bits.signed(size.into()),
        _ => Err(BAD_CODE),
    }
}

/// Read a block and store its samples.
fn sequential(
    bits: &mut Bits<'_>,
    dc: &mut i32,
    component: &mut Component,
    (x, y): (usize, usize),
    (dc_table, ac_table): (&Table, &Table),
) -> Result<()> {
    let mut block = [0i16; 64];
    *dc = dc.wrapping_add(dc_difference(bits, dc_table)?);
    block[0] = *dc as i16;
    let mut k = 1;
    while k < 64 {
        let symbol = bits.symbol(ac_table)?;
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        match (run, size) {
            (15, 0) => k += 16,
            (_, 0) => break,
            _ => {
                let place = ZIGZAG.get(k + run).ok_or(BAD_CODE)?;
                block[usize::from(*place)] = bits.signed(size)? as i16;
                k += run + 1;
            }
        }
    }
    component.store(&block, x, y);
    Ok(())
}

/// Read what this scan has of a block.
fn progressive(
    bits: &mut Bits<'_>,
    state: &mut State,
    header: &ScanHeader,
    index: usize,
    component: &mut Component,
    (x, y): (usize, usize),
    (dc_table, ac_table): (&Table, &Table),
) -> Result<()> {
    let at = (y * component.blocks_wide + x) * 64;
    let block = component.coefficients[at..].first_chunk_mut::<64>().expect("the block lies in the component");
    let (is_refinement, low) = (header.bits.0 != 0, header.bits.1);
    match (header.band, is_refinement) {
        ((0, _), false) => {
            let dc = &mut state.dc[index];
            *dc = dc.wrapping_add(dc_difference(bits, dc_table)?);
            block[0] = (*dc << low) as i16;
        }
        ((0, _), true) => block[0] |= (bits.take(1)? << low) as i16,
        (band, false) => first_of_band(bits, &mut state.blocks_to_skip, block, band, low, ac_table)?,
        (band, true) => refine_band(bits, &mut state.blocks_to_skip, block, band, 1 << low, ac_table)?,
    }
    Ok(())
}

/// Number of blocks, this one among them, that end here.
fn end_of_bands(bits: &mut Bits<'_>, run: usize) -> Result<u32> {
    Ok((1 << run) + bits.take(run as u32)?)
}

fn first_of_band(
    bits: &mut Bits<'_>,
    blocks_to_skip: &mut u32,
    block: &mut [i16; 64],
    (first, last): (usize, usize),
    low: u8,
    table: &Table,
) -> Result<()> {
    if *blocks_to_skip > 0 {
        *blocks_to_skip -= 1;
        return Ok(());
    }
    let mut k = first;
    while k <= last {
        let symbol = bits.symbol(table)?;
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        match (run, size) {
            (15, 0) => k += 16,
            (_, 0) => {
                *blocks_to_skip = end_of_bands(bits, run)? - 1;
                break;
            }
            _ => {
                let place = ZIGZAG[..=last].get(k + run).ok_or(BAD_CODE)?;
                block[usize::from(*place)] = (bits.signed(size)? << low) as i16;
                k += run + 1;
            }
        }
    }
    Ok(())
}

/// Add the next lower bit: of coefficients that are not zero, one bit each; new ones come with their sign.
fn refine_band(
    bits: &mut Bits<'_>,
    blocks_to_skip: &mut u32,
    block: &mut [i16; 64],
    (first, last): (usize, usize),
    bit: i16,
    table: &Table,
) -> Result<()> {
    let mut k = first;
    if *blocks_to_skip == 0 {
        while k <= last {
            let symbol = bits.symbol(table)?;
            let (run, size) = (usize::from(symbol >> 4), symbol & 15);
            let new = match (run, size) {
                (15, 0) => 0,
                (_, 0) => {
                    *blocks_to_skip = end_of_bands(bits, run)?;
                    break;
                }
                (_, 1) if bits.take(1)? != 0 => bit,
                (_, 1) => -bit,
                _ => return Err(BAD_CODE),
            };
            // `run` zeros are passed over; the next one is the place of the new coefficient.
            let mut zeros_left = run;
            while k <= last {
                let coefficient = &mut block[usize::from(ZIGZAG[k])];
                if *coefficient != 0 {
                    refine(bits, coefficient, bit)?;
                } else if zeros_left == 0 {
                    break;
                } else {
                    zeros_left -= 1;
                }
                k += 1;
            }
            if new != 0 {
                if k > last {
                    return Err(BAD_CODE);
                }
                block[usize::from(ZIGZAG[k])] = new;
            }
            k += 1;
        }
    }
    if *blocks_to_skip > 0 {
        for &place in &ZIGZAG[k.min(last + 1)..=last] {
            let coefficient = &mut block[usize::from(place)];
            if *coefficient != 0 {
                refine(bits, coefficient, bit)?;
            }
        }
        *blocks_to_skip -= 1;
    }
    Ok(())
}

fn refine(bits: &mut Bits<'_>, coefficient: &mut i16, bit: i16) -> Result<()> {
    if bits.take(1)? != 0 && *coefficient & bit == 0 {
        *coefficient = coefficient.wrapping_add(if *coefficient > 0 { bit } else { -bit });
    }
    Ok(())
}

impl Component {
    /// Transform a block and store its samples.
    fn store(&mut self, block: &[i16; 64], x: usize, y: usize) {
        let steps = self.steps.as_ref().expect("set with the scan header");
        let stride = self.blocks_wide * 8;
        idct::transform(block, steps, &mut self.samples[y * 8 * stride + x * 8..], stride);
    }

    /// Transform all blocks of a progressive frame, and free their coefficients.
    pub(super) fn transform(&mut self) {
        let coefficients = std::mem::take(&mut self.coefficients);
        for (i, block) in coefficients.as_chunks::<64>().0.iter().enumerate() {
            self.store(block, i % self.blocks_wide, i / self.blocks_wide);
        }
    }
}
