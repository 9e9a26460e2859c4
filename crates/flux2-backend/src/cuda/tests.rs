//! Shared by unit tests of this backend.

use crate::cuda::runtime::libraries::{Found, LibrarySearch, load};

/// The libraries, from the folders of `DJ_FLUX2_CUDA_LIBRARIES` first.
pub(super) fn libraries() -> &'static [Found] {
    let folders = std::env::var_os("DJ_FLUX2_CUDA_LIBRARIES");
    let folders = folders.map_or_else(Vec::new, |folders| std::env::split_paths(&folders).collect());
    load(&LibrarySearch { folders, python_prefixes: Vec::new() })
}
