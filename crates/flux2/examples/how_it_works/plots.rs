//! Plots as SVG: text in the color of the page, so that they are read on light and on dark.

use std::fmt::Write as _;

use flux2::bench::Cost;
use flux2::sampler;
use flux2::weights::ModelFiles;
use flux2::{Device, EngineOptions, GenerateRequest, Phase, ResolvedRequest, Variant, plan};

use super::lab::Result;

/// A plot of lines.
pub struct Plot {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
}

/// An axis goes from its first tick to its last.
#[derive(Default)]
pub struct Axis {
    pub name: String,
    pub ticks: Vec<f64>,
    /// Equal factors are equally far apart.
    pub logarithmic: bool,
}

pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    pub dashed: bool,
}

const WIDTH: f64 = 660.0;
const HEIGHT: f64 = 320.0;
/// Left, top, right and bottom of the lines.
const FRAME: [f64; 4] = [64.0, 40.0, 470.0, 270.0];
const COLORS: [&str; 5] = ["#2f6fd0", "#c8502b", "#2c8f57", "#8a53b5", "#888888"];

impl Axis {
    /// Where a value is, from 0 at the first tick to 1 at the last.
    fn place(&self, value: f64) -> f64 {
        let scaled = |value: f64| if self.logarithmic { value.log2() } else { value };
        let [first, last] = [self.ticks[0], self.ticks[self.ticks.len() - 1]].map(scaled);
        (scaled(value) - first) / (last - first)
    }
}

impl Plot {
    pub fn svg(&self) -> Vec<u8> {
        let [left, top, right, bottom] = FRAME;
        let x = |value: f64| left + self.x.place(value) * (right - left);
        let y = |value: f64| bottom - self.y.place(value) * (bottom - top);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <style>rect {{ fill: #fff }} text {{ fill: #222 }} .grid {{ stroke: #8884 }}\n\
             @media (prefers-color-scheme: dark) {{ rect {{ fill: #1b1b1b }} text {{ fill: #ddd }} }}</style>\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\"/>\n"
        );
        let text = |svg: &mut String, [x, y]: [f64; 2], anchor: &str, content: &str| {
            let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>");
        };
        text(&mut svg, [left, 22.0], "start", &self.title);
        text(&mut svg, [(left + right) / 2.0, bottom + 38.0], "middle", &self.x.name);
        let _ = writeln!(
            svg,
            "<text transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            (top + bottom) / 2.0,
            self.y.name
        );
        for &tick in &self.x.ticks {
            let _ = writeln!(svg, "<path class=\"grid\" d=\"M{:.1} {top}V{bottom}\"/>", x(tick));
            text(&mut svg, [x(tick), bottom + 18.0], "middle", &tick.to_string());
        }
        for &tick in &self.y.ticks {
            let _ = writeln!(svg, "<path class=\"grid\" d=\"M{left} {:.1}H{right}\"/>", y(tick));
            text(&mut svg, [left - 8.0, y(tick) + 4.0], "end", &tick.to_string());
        }
        for (number, series) in self.series.iter().enumerate() {
            let color = COLORS[number % COLORS.len()];
            let points = series.points.iter().map(|&(a, b)| format!("{:.1} {:.1}", x(a), y(b)));
            let line = points.collect::<Vec<_>>().join("L");
            let dashes = if series.dashed { " stroke-dasharray=\"5 4\"" } else { "" };
            let pen = format!("fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"{dashes}");
            let _ = writeln!(svg, "<path {pen} d=\"M{line}\"/>");
            // More dots than these would be a second line.
            for &(a, b) in series.points.iter().filter(|_| series.points.len() <= 17 && !series.dashed) {
                let _ = writeln!(svg, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{color}\"/>", x(a), y(b));
            }
            let row = top + 8.0 + 20.0 * number as f64;
            let _ = writeln!(svg, "<path {pen} d=\"M{} {row:.1}h20\"/>", right + 16.0);
            text(&mut svg, [right + 42.0, row + 4.0], "start", &series.name);
        }
        (svg + "</svg>\n").into_bytes()
    }
}

fn series(name: &str, points: Vec<(f64, f64)>) -> Series {
    Series { name: name.into(), points, dashed: false }
}

/// The noise levels of four and of fifty steps beside evenly spaced ones.
pub fn schedule() -> Result<Vec<u8>> {
    let levels = |steps: u32, side: usize| {
        let sigmas = sampler::sigmas(steps, (side / 16).pow(2))?;
        let at = |(i, sigma): (usize, f32)| (i as f64 / f64::from(steps), f64::from(sigma));
        Ok::<_, flux2::Error>(sigmas.into_iter().enumerate().map(at).collect::<Vec<_>>())
    };
    Ok(Plot {
        title: "Noise levels of the steps".into(),
        x: Axis { name: "part of the steps".into(), ticks: vec![0.0, 0.25, 0.5, 0.75, 1.0], ..Axis::default() },
        y: Axis { name: "noise level".into(), ticks: vec![0.0, 0.25, 0.5, 0.75, 1.0], ..Axis::default() },
        series: vec![
            series("4 steps, 1024x1024", levels(4, 1024)?),
            series("4 steps, 128x128", levels(4, 128)?),
            series("50 steps, 1024x1024", levels(50, 1024)?),
            series("50 steps, 2048x2048", levels(50, 2048)?),
            Series { name: "evenly spaced".into(), points: vec![(0.0, 1.0), (1.0, 0.0)], dashed: true },
        ],
    }
    .svg())
}

const SIDES: [u32; 4] = [256, 512, 1024, 2048];

fn klein_4b() -> Result<(ModelFiles, &'static Variant)> {
    let variant = Variant::by_name("klein-4b")?;
    Ok((ModelFiles::published(variant).ok_or("no published sizes")?, variant))
}

fn square(side: u32) -> GenerateRequest {
    GenerateRequest { width: Some(side), height: Some(side), ..GenerateRequest::new("a red fox") }
}

/// What the stages of klein-4b compute, by the side of the picture.
pub fn time() -> Result<Vec<u8>> {
    let (files, variant) = klein_4b()?;
    let mut stages = [const { Vec::new() }; 4];
    for side in SIDES {
        let cost = Cost::at_most(&files, &ResolvedRequest::new(&square(side), variant)?);
        let steps = cost.steps as f64;
        let values = [
            cost.text.total(),
            steps * (cost.step.total() - cost.step.attention),
            steps * cost.step.attention,
            cost.decode.total(),
        ];
        stages.iter_mut().zip(values).for_each(|(stage, value)| stage.push((f64::from(side), value / 1e12)));
    }
    let names = ["text encoder", "4 steps: products", "4 steps: attention", "decoder"];
    Ok(Plot {
        title: "Work of an image, klein-4b".into(),
        x: Axis { name: "side of the image in pixels".into(), ticks: SIDES.map(f64::from).into(), logarithmic: true },
        y: Axis {
            name: "10^12 floating-point operations".into(),
            ticks: vec![0.1, 1.0, 10.0, 100.0, 1000.0],
            logarithmic: true,
        },
        series: names.into_iter().zip(stages).map(|(name, points)| series(name, points)).collect(),
    }
    .svg())
}

/// What the stages of klein-4b take of the memory of a CPU, by the side of the picture.
pub fn memory() -> Result<Vec<u8>> {
    let (files, _) = klein_4b()?;
    let options = EngineOptions { device: Device::Cpu, ..EngineOptions::default() };
    let phases = [Phase::Text, Phase::Denoise, Phase::Decode];
    let mut stages = phases.map(|_| Vec::new());
    for side in SIDES {
        let plan = plan::of(&files, &options, &[square(side)])?;
        for (phase, stage) in phases.iter().zip(&mut stages) {
            let of_phase = plan.stages.iter().filter(|stage| stage.stage == *phase).map(|stage| stage.memory.total());
            stage.push((f64::from(side), of_phase.max().ok_or("a stage is missing")? as f64 / f64::from(1 << 30)));
        }
    }
    let names = ["text encoder", "denoising", "decoder"];
    Ok(Plot {
        title: "Memory of the stages, klein-4b in bf16 on a CPU".into(),
        x: Axis { name: "side of the image in pixels".into(), ticks: SIDES.map(f64::from).into(), logarithmic: true },
        y: Axis { name: "GiB".into(), ticks: vec![0.0, 2.0, 4.0, 6.0, 8.0, 10.0], ..Axis::default() },
        series: names.into_iter().zip(stages).map(|(name, points)| series(name, points)).collect(),
    }
    .svg())
}
