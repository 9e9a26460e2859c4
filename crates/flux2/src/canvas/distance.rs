//! Exact Euclidean distances between pixels, one row at a time: memory for a few rows, time linear in the pixels.
//!
//! In:  a plane of bytes and which of them are seeds. Out: for each pixel the squared distance between its center and
//!      that of the nearest seed, up to a limit.
//!
//! Follows Meijster, Roerdink and Hesselink, "A general algorithm for computing distance transforms in linear time"
//! (2000): distances along columns first, then the lower envelope of one parabola per column. All in integers.

use std::ops::Range;

/// Squared distances of a rectangle of a plane, row by row.
pub(super) struct Distances<'a> {
    plane: &'a [u8],
    /// Bytes from a row of the plane to the next.
    stride: usize,
    left: usize,
    /// The row that comes next.
    y: usize,
    bottom: usize,
    is_seed: fn(u8) -> bool,
    /// Longest distance that is told apart.
    limit: usize,
    /// For each column: rows since the last seed, at most `limit`.
    above: Vec<usize>,
    /// For each column: the row of the next seed, `bottom` if there is none.
    below: Vec<usize>,
    /// For each column: the smaller of both distances, squared.
    columns: Vec<i64>,
    envelope: Vec<Parabola>,
    squared: Vec<u32>,
}

/// A column whose parabola is the lowest from some pixel on.
#[derive(Clone, Copy)]
struct Parabola {
    column: i64,
    from: i64,
}

impl<'a> Distances<'a> {
    /// Distances in columns `left..right` of rows `top..bottom`. Seeds outside of them do not count, and distances of
    /// `limit` pixels and more are told as `limit`.
    pub(super) fn new(
        plane: &'a [u8],
        stride: usize,
        [left, top, right, bottom]: [usize; 4],
        is_seed: fn(u8) -> bool,
        limit: u32,
    ) -> Self {
        let (width, limit) = (right - left, limit as usize);
        Distances {
            plane,
            stride,
            left,
            y: top,
            bottom,
            is_seed,
            limit,
            above: vec![limit; width],
            below: (left..right).map(|x| next_seed(plane, stride, x, top..bottom, is_seed)).collect(),
            columns: vec![0; width],
            envelope: Vec::with_capacity(width),
            squared: vec![0; width],
        }
    }

    /// The squared distances of the next row.
    ///
    /// # Panics
    /// After the last row.
    pub(super) fn next_row(&mut self) -> &[u32] {
        assert!(self.y < self.bottom, "all rows were asked for");
        for x in 0..self.columns.len() {
            if self.below[x] < self.y {
                let rows = self.y..self.bottom;
                self.below[x] = next_seed(self.plane, self.stride, self.left + x, rows, self.is_seed);
            }
            let is_seed = self.below[x] == self.y;
            self.above[x] = if is_seed { 0 } else { (self.above[x] + 1).min(self.limit) };
            let below = if self.below[x] == self.bottom { self.limit } else { self.below[x] - self.y };
            let nearest = self.above[x].min(below).min(self.limit) as i64;
            self.columns[x] = nearest * nearest;
        }
        self.y += 1;
        self.lower_envelope();
        &self.squared
    }

    fn lower_envelope(&mut self) {
        let width = self.columns.len() as i64;
        let at = |x: i64, column: i64| (x - column).pow(2) + self.columns[column as usize];
        // Where the parabola of `right` is no longer above that of `left`, rounded down.
        let meet = |left: i64, right: i64| {
            let rise = self.columns[right as usize] - self.columns[left as usize];
            (right * right - left * left + rise) / (2 * (right - left))
        };
        self.envelope.clear();
        self.envelope.push(Parabola { column: 0, from: 0 });
        for column in 1..width {
            while self.envelope.last().is_some_and(|p| at(p.from, p.column) > at(p.from, column)) {
                self.envelope.pop();
            }
            match self.envelope.last() {
                None => self.envelope.push(Parabola { column, from: 0 }),
                Some(last) => {
                    let from = 1 + meet(last.column, column);
                    if from < width {
                        self.envelope.push(Parabola { column, from });
                    }
                }
            }
        }
        let most = (self.limit * self.limit) as i64;
        let mut parabolas = self.envelope.iter().rev();
        let mut lowest = parabolas.next();
        for x in (0..width).rev() {
            while lowest.is_some_and(|p| p.from > x) {
                lowest = parabolas.next();
            }
            let column = lowest.map_or(0, |p| p.column);
            self.squared[x as usize] = at(x, column).min(most) as u32;
        }
    }
}

/// The first row of `rows` with a seed in column `x`; the end of `rows` if there is none.
fn next_seed(plane: &[u8], stride: usize, x: usize, rows: Range<usize>, is_seed: fn(u8) -> bool) -> usize {
    let end = rows.end;
    let mut rows = rows;
    rows.find(|y| is_seed(plane[y * stride + x])).unwrap_or(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn distances_are_those_of_a_search(
            width in 1usize..24, height in 1usize..24, limit in 1u32..12, seeds in proptest::collection::vec(0u8..12, 576)
        ) {
            let plane: Vec<u8> = seeds.iter().map(|&v| u8::from(v > 0)).take(width * height).collect();
            let mut rows = Distances::new(&plane, width, [0, 0, width, height], |byte| byte == 0, limit);
            for y in 0..height {
                let row = rows.next_row().to_vec();
                for (x, &got) in row.iter().enumerate() {
                    let near = (0..width * height).filter(|i| plane[*i] == 0);
                    let near = near.map(|i| (i % width).abs_diff(x).pow(2) + (i / width).abs_diff(y).pow(2)).min();
                    let expected = near.map_or(limit * limit, |near| (near as u32).min(limit * limit));
                    prop_assert_eq!(got, expected, "{} {}", x, y);
                }
            }
        }
    }
}
