//! What is stored about the picture that was painted into.

/// A source, its mask and what was done with them. Both files are identified by their digests.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SourceParameters {
    /// SHA-256, in hexadecimal, of the source's file.
    pub sha256: String,
    /// The same of the mask's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    /// Whether the transparency of the source is the mask.
    #[serde(default, skip_serializing_if = "is_false")]
    pub mask_from_alpha: bool,
    /// Whether the mask was inverted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub mask_invert: bool,
    /// Pixels by which the mask was grown.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mask_grow: u32,
    /// Pixels added at the left, the top, the right and the bottom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outpaint: Option<[u32; 4]>,
    /// The color of added pixels, as `#rrggbb`; `None` for that of the nearest pixel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outpaint_fill: Option<String>,
    /// Strength: 1 starts from noise.
    pub strength: f64,
    /// Width of the transition inside the mask in pixels; `None` where nothing is pasted back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feather: Option<u32>,
    /// Whether the model saw the source as its first reference image.
    pub is_reference: bool,
    /// Left, top, right and bottom edge of the region that was drawn, in pixels of the canvas.
    pub region: [u32; 4],
    /// Width and height of the region while it was drawn, in pixels.
    pub drawn: [u32; 2],
    /// The program whose rules were kept; `None` for this one's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}
