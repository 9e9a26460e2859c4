//! Embedded ICC profiles: pixels in the file's color space to sRGB.
//!
//! In:  decoded RGB or gray bytes and the bytes of the profile, both untrusted.
//! Out: sRGB bytes, with relative colorimetric intent and no black point compensation, as LittleCMS does it.
//!
//! A bad profile never fails a picture. It is ignored if it is broken or describes other channels than the pixels have
//! (as for CMYK, which the decoder converts to RGB).

use moxcms::{
    CicpProfile, ColorProfile, DataColorSpace, Layout, MatrixCoefficients, RenderingIntent, ToneReprCurve,
    TransferCharacteristics, Transform8BitExecutor, TransformOptions,
};

type Transform = std::sync::Arc<Transform8BitExecutor>;

/// Pixels converted at a time.
pub(super) const CHUNK: usize = 1 << 16;

/// RGB pixels in the space of a profile to sRGB.
pub(super) struct RgbToSrgb {
    transform: Transform,
    converted: Vec<u8>,
}

impl RgbToSrgb {
    /// `None` if the profile is broken, of another kind, or sRGB itself.
    pub(super) fn new(profile: &[u8]) -> Option<Self> {
        let transform = transform(profile, DataColorSpace::Rgb, Layout::Rgb)?;
        (!is_srgb(&*transform)).then_some(RgbToSrgb { transform, converted: vec![] })
    }

    /// Convert `pixels`, at most [`CHUNK`] of them, in place.
    pub(super) fn apply(&mut self, pixels: &mut [u8]) {
        self.converted.resize(pixels.len(), 0);
        if self.transform.transform(pixels, &mut self.converted).is_ok() {
            pixels.copy_from_slice(&self.converted);
        }
    }
}

/// The color space of an RGB profile, for pixels that are converted to sRGB and back.
pub(super) struct RgbSpace {
    to_srgb: Option<RgbToSrgb>,
    /// The way back: `None` if the space is sRGB itself, an error if the profile holds no way back.
    from_srgb: Option<Result<RgbToSrgb, NoWayBack>>,
}

/// A profile that describes colors and not how to make them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoWayBack;

impl RgbSpace {
    /// `None` if the profile is broken or of another kind.
    pub(super) fn new(profile: &[u8]) -> Option<Self> {
        let to_srgb = transform(profile, DataColorSpace::Rgb, Layout::Rgb)?;
        if is_srgb(&*to_srgb) {
            return Some(RgbSpace { to_srgb: None, from_srgb: None });
        }
        let back = |target: ColorProfile| {
            let made = ColorProfile::new_srgb().create_transform_8bit(Layout::Rgb, &target, Layout::Rgb, options());
            made.map(|transform| RgbToSrgb { transform, converted: vec![] }).map_err(|_| NoWayBack)
        };
        let from_srgb = ColorProfile::new_from_slice(profile).map_err(|_| NoWayBack).and_then(back);
        let to_srgb = RgbToSrgb { transform: to_srgb, converted: vec![] };
        Some(RgbSpace { to_srgb: Some(to_srgb), from_srgb: Some(from_srgb) })
    }

    /// Convert pixels of this space to sRGB in place.
    pub(super) fn convert_to_srgb(&mut self, pixels: &mut [u8]) {
        if let Some(transform) = &mut self.to_srgb {
            pixels.chunks_mut(3 * CHUNK).for_each(|pixels| transform.apply(pixels));
        }
    }

    /// Convert pixels of sRGB to this space in place.
    ///
    /// # Errors
    /// If the profile holds no way back.
    pub(super) fn convert_from_srgb(&mut self, pixels: &mut [u8]) -> Result<(), NoWayBack> {
        match &mut self.from_srgb {
            None => {}
            Some(Ok(transform)) => pixels.chunks_mut(3 * CHUNK).for_each(|pixels| transform.apply(pixels)),
            Some(Err(no_way_back)) => return Err(*no_way_back),
        }
        Ok(())
    }
}

/// The profile of a PNG's code points (H.273), which take the place of an embedded one. `None` for a space that this
/// cannot express: high dynamic range, video range, YCbCr.
pub(super) fn profile_of_code_points(primaries: u8, transfer: u8, matrix: u8, is_full_range: bool) -> Option<Vec<u8>> {
    let (color_primaries, transfer_characteristics) = (primaries.try_into().ok()?, transfer.try_into().ok()?);
    let is_high_range =
        matches!(transfer_characteristics, TransferCharacteristics::Smpte2084 | TransferCharacteristics::Hlg);
    if is_high_range || matrix != 0 || !is_full_range {
        return None;
    }
    let matrix_coefficients = MatrixCoefficients::Identity;
    let code_points =
        CicpProfile { color_primaries, transfer_characteristics, matrix_coefficients, full_range: is_full_range };
    let profile = ColorProfile::new_from_cicp(code_points);
    // Without curves the code points are not supported.
    profile.red_trc.as_ref()?;
    profile.encode().ok()
}

/// Gray pixels, with or without a profile, to sRGB.
pub(super) struct GrayToSrgb {
    /// Gray has 256 values, each transformed once.
    table: [[u8; 3]; 256],
}

impl GrayToSrgb {
    /// A profile that is broken or of another kind is passed over.
    pub(super) fn new(profile: Option<&[u8]>) -> Self {
        let transform = profile.and_then(|profile| transform(profile, DataColorSpace::Gray, Layout::Gray));
        let ramp: [u8; 256] = std::array::from_fn(|level| level as u8);
        let mut table = ramp.map(|level| [level; 3]);
        if transform.is_some_and(|transform| transform.transform(&ramp, table.as_flattened_mut()).is_err()) {
            table = ramp.map(|level| [level; 3]);
        }
        GrayToSrgb { table }
    }

    /// Append `gray` to `rgb`, three bytes for each.
    pub(super) fn append(&self, gray: &[u8], rgb: &mut Vec<u8>) {
        rgb.extend(gray.iter().flat_map(|&level| self.table[usize::from(level)]));
    }
}

fn transform(profile: &[u8], space: DataColorSpace, layout: Layout) -> Option<Transform> {
    let mut source = ColorProfile::new_from_slice(profile).ok()?;
    if source.color_space != space {
        return None;
    }
    if space == DataColorSpace::Gray && source.pcs == DataColorSpace::Lab {
        gray_lab_to_xyz(&mut source)?;
    }
    source.create_transform_8bit(layout, &ColorProfile::new_srgb(), Layout::Rgb, options()).ok()
}

fn options() -> TransformOptions {
    TransformOptions { rendering_intent: RenderingIntent::RelativeColorimetric, ..Default::default() }
}

/// A gray profile whose curve gives lightness, as one whose curve gives luminance: the only kind that moxcms converts.
fn gray_lab_to_xyz(profile: &mut ColorProfile) -> Option<()> {
    let lightness = profile.gray_trc.as_ref()?.make_linear_evaluator().ok()?;
    // CIE 1976: L* to Y.
    let luminance = |l: f32| if l > 8.0 { ((l + 16.0) / 116.0).powi(3) } else { l * 27.0 / 24_389.0 };
    let entry = |i: u16| {
        let l = 100.0 * lightness.evaluate_value(f32::from(i) / f32::from(LAB_ENTRIES - 1));
        (luminance(l).clamp(0.0, 1.0) * 65_535.0).round() as u16
    };
    profile.gray_trc = Some(ToneReprCurve::Lut((0..LAB_ENTRIES).map(entry).collect()));
    profile.pcs = DataColorSpace::Xyz;
    Some(())
}

/// Entries of the curve: one for each gray level, so that none is interpolated.
const LAB_ENTRIES: u16 = 256;

/// Whether the profile is sRGB up to rounding. Most profiles are, and then no byte should change.
fn is_srgb(transform: &Transform8BitExecutor) -> bool {
    let levels = || (0..=255u8).step_by(15);
    let probe: Vec<u8> =
        levels().flat_map(|r| levels().flat_map(move |g| levels().flat_map(move |b| [r, g, b]))).collect();
    let mut converted = vec![0; probe.len()];
    transform.transform(&probe, &mut converted).is_ok()
        && probe.iter().zip(&converted).all(|(a, b)| a.abs_diff(*b) <= 1)
}
