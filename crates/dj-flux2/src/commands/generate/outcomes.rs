//! What came of the pictures of a run, or of several runs that make one grid.

use std::path::PathBuf;

use flux2::image::Parameters;

use crate::failure::{Failure, Result, code};

/// What came of the pictures of one run or of several, by their places in the whole, from 0.
#[derive(Default)]
pub struct Outcomes {
    pub made: Vec<(u64, Made)>,
    pub failed: Vec<(u64, Failure)>,
}

/// A picture that was made.
pub struct Made {
    /// `None` for standard output.
    pub path: Option<PathBuf>,
    pub parameters: Parameters,
}

impl Outcomes {
    /// Whether all pictures, `whole` of them, were made; the reason of the first that was not if there is none.
    pub fn verdict(self, whole: u64) -> Result<()> {
        let failed = self.failed.len();
        match (self.failed.into_iter().next(), self.made.is_empty()) {
            (None, _) => Ok(()),
            // Nothing was made, so the reason is the run's.
            (Some((_, first)), true) => Err(first),
            (Some(_), false) => {
                let message = format!("{failed} of {whole} pictures failed");
                Err(Failure { code: code::SOME_FAILED, message, hint: None })
            }
        }
    }
}
