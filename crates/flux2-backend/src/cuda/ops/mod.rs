//! Every op that is no product: a launcher each, and `.cu` files, which several small ops may share.

pub(crate) mod attention;
pub(crate) mod cast;
pub(crate) mod concat_cols;
pub(crate) mod concat_rows;
pub(crate) mod conv2d;
pub(crate) mod cudnn;
pub(crate) mod embedding;
pub(crate) mod euler_step;
pub(crate) mod group_norm;
pub(crate) mod guide;
pub(crate) mod modulated_layer_norm;
pub(crate) mod norm_rope;
pub(crate) mod patchify;
pub(crate) mod rms_norm;
pub(crate) mod silu;
