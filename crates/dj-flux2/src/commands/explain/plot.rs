//! Plots as SVG: lines over an axis, for the page and for files.

use maud::{Markup, html};

/// Width and height of a plot in units of its view box.
const SIZE: [f64; 2] = [520.0, 300.0];
/// Room around the plotting area: left, top, right, bottom.
const MARGIN: [f64; 4] = [50.0, 48.0, 14.0, 44.0];

/// Colors and fonts of plots, also of those that are files of their own.
pub const STYLE: &str = include_str!("plot.css");

/// Points in the order of x, under a name.
pub struct Series {
    pub name: String,
    pub points: Vec<[f64; 2]>,
    /// Whether only the line is drawn, thin and dashed: for what is compared with.
    pub is_faint: bool,
}

/// Lines over an axis.
pub struct Plot {
    pub title: &'static str,
    pub x: &'static str,
    pub y: &'static str,
    pub series: Vec<Series>,
    /// Whether the values are shown by their logarithm.
    pub is_logarithmic: bool,
    /// Whether `x` is a count: ticks are at whole numbers only.
    pub counts: bool,
}

impl Plot {
    pub fn svg(&self) -> Markup {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let xs = Scale::of(points().map(|[x, _]| *x), [MARGIN[0], SIZE[0] - MARGIN[2]], false, self.counts);
        let ys = points().map(|[_, y]| *y).chain((!self.is_logarithmic).then_some(0.0));
        let ys = Scale::of(ys, [SIZE[1] - MARGIN[3], MARGIN[1]], self.is_logarithmic, false);
        let path = |points: &[[f64; 2]]| -> String {
            points.iter().map(|[x, y]| format!("{:.1},{:.1}", xs.at(*x), ys.at(*y))).collect::<Vec<_>>().join(" ")
        };
        let (left, right, bottom) = (MARGIN[0], SIZE[0] - MARGIN[2], SIZE[1] - MARGIN[3]);
        let body = html! {
            @for tick in ys.ticks() {
                line.grid x1=(left) x2=(right) y1=(at(ys.at(tick))) y2=(at(ys.at(tick))) {}
                text.tick x=(left - 8.0) y=(at(ys.at(tick) + 4.0)) text-anchor="end" { (number(tick)) }
            }
            @for tick in xs.ticks() {
                line.grid x1=(at(xs.at(tick))) x2=(at(xs.at(tick))) y1=(bottom) y2=(bottom + 5.0) {}
                text.tick x=(at(xs.at(tick))) y=(bottom + 18.0) text-anchor="middle" { (number(tick)) }
            }
            text.label x=(at(f64::midpoint(left, right))) y=(SIZE[1] - 6.0) text-anchor="middle" { (self.x) }
            text.label x="0" y="14" { (self.y) }
            @for (i, series) in self.series.iter().enumerate() {
                g class=(class(i, series)) {
                    polyline points=(path(&series.points)) {}
                    @if !series.is_faint && series.points.len() <= 64 {
                        @for [x, y] in &series.points {
                            circle cx=(at(xs.at(*x))) cy=(at(ys.at(*y))) r="3.5" {
                                title { (series.name) ", " (self.x) " " (number(*x)) ": " (number(*y)) }
                            }
                        }
                    }
                }
            }
            @for (i, (x, series)) in self.legend(right).into_iter().enumerate() {
                g class=(class(i, series)) {
                    polyline points=(format!("{x:.0},30 {:.0},30", x + 20.0)) {}
                    text x=(x + 26.0) y="34" { (series.name) }
                }
            }
        };
        svg(SIZE, self.title, &body)
    }

    /// The series with the left ends of their names, which stand side by side up to `right`. Names of those that do not
    /// fit are left out.
    fn legend(&self, right: f64) -> Vec<(f64, &Series)> {
        let width = |series: &Series| 44.0 + 6.6 * series.name.chars().count() as f64;
        let mut x = right - self.series.iter().map(width).sum::<f64>().min(right - MARGIN[0]);
        let entry = |series| {
            let from = x;
            x += width(series);
            (from, series)
        };
        self.series.iter().map(entry).take_while(|(from, _)| *from < right - 40.0).collect()
    }
}

/// The class of a series, which gives it its color.
fn class(i: usize, series: &Series) -> String {
    format!("series s{}{}", i % 6, if series.is_faint { " faint" } else { "" })
}

/// An image of `size` with a title for those who do not see it.
pub fn svg([width, height]: [f64; 2], title: &str, body: &Markup) -> Markup {
    html! {
        svg.plot xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {width:.0} {height:.0}")) width=(width)
            height=(height) role="img"
            aria-label=(title) { (body) }
    }
}

/// The text of a file with an image.
pub fn file(svg: &Markup) -> String {
    let text = svg.0.as_str();
    let body = text.find('>').map_or(text.len(), |end| end + 1);
    format!("{}<style>{STYLE}</style>{}\n", &text[..body], &text[body..])
}

/// A coordinate, with a digit behind the point.
pub fn at(value: f64) -> f64 {
    (10.0 * value).round() / 10.0
}

/// A number with about three digits.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size >= 1e5 => format!("{value:.0e}"),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size < 0.001 => format!("{value:.1e}"),
        size => {
            let digits = 2 - size.log10().floor() as i32;
            let text = format!("{value:.*}", digits.clamp(0, 5) as usize);
            if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
        }
    }
}

/// From values to coordinates.
struct Scale {
    from: [f64; 2],
    to: [f64; 2],
    is_logarithmic: bool,
    counts: bool,
}

impl Scale {
    fn of(values: impl Iterator<Item = f64>, to: [f64; 2], is_logarithmic: bool, counts: bool) -> Self {
        let finite = values.filter(|value| value.is_finite() && (!is_logarithmic || *value > 0.0));
        let [min, max] = finite.fold([f64::INFINITY, f64::NEG_INFINITY], |[min, max], v| [min.min(v), max.max(v)]);
        let [min, max] = if min <= max { [min, max] } else { [0.0, 1.0] };
        let from = match is_logarithmic {
            true => [10f64.powf(min.log10().floor()), 10f64.powf(max.log10().ceil().max(min.log10().floor() + 1.0))],
            false if min == max => [min, min + 1.0],
            false => [min, max],
        };
        Scale { from, to, is_logarithmic, counts }
    }

    fn at(&self, value: f64) -> f64 {
        let place = |v: f64| if self.is_logarithmic { v.max(self.from[0]).log10() } else { v };
        let [low, high] = self.from.map(place);
        self.to[0] + (place(value) - low) / (high - low) * (self.to[1] - self.to[0])
    }

    /// Round values, about five.
    fn ticks(&self) -> Vec<f64> {
        let [low, high] = self.from;
        if self.is_logarithmic {
            let (first, last) = (low.log10().round() as i32, high.log10().round() as i32);
            return (first..=last).map(|power| 10f64.powi(power)).collect();
        }
        let step = step((high - low) / 5.0);
        let step = if self.counts { step.max(1.0) } else { step };
        let first = (low / step).ceil() as i64;
        let last = (high / step + 1e-9).floor() as i64;
        (first..=last).map(|i| i as f64 * step).collect()
    }
}

/// The least of 1, 2 and 5 times a power of ten that is not below `least`.
pub fn step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= least * 0.999).unwrap_or(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        let linear = Scale::of([0.0, 1.0].into_iter(), [0.0, 100.0], false, false);
        assert_eq!(linear.ticks(), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!((linear.at(0.0), linear.at(0.5), linear.at(1.0)), (0.0, 50.0, 100.0));
        let counts = Scale::of([1.0, 4.0].into_iter(), [0.0, 3.0], false, true);
        assert_eq!(counts.ticks(), [1.0, 2.0, 3.0, 4.0]);
        let logarithmic = Scale::of([3.0, 700.0].into_iter(), [0.0, 3.0], true, false);
        assert_eq!(logarithmic.ticks(), [1.0, 10.0, 100.0, 1000.0]);
        assert!((logarithmic.at(10.0) - 1.0).abs() < 1e-9);
        // Nothing to show, or one value, is no division by zero.
        assert!(Scale::of(std::iter::empty(), [0.0, 1.0], false, false).at(0.5).is_finite());
        assert!(Scale::of([2.0].into_iter(), [0.0, 1.0], true, false).at(2.0).is_finite());
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 1.0, 0.25, 12.5, 1234.0, 1e6, 0.00004, -0.5].map(number);
        assert_eq!(shown, ["0", "1", "0.25", "12.5", "1234", "1e6", "4.0e-5", "-0.5"]);
    }

    #[test]
    fn a_file_has_its_style_and_escapes_names() {
        let series = Series { name: "<b>&".into(), points: vec![[0.0, 1.0], [1.0, 2.0]], is_faint: false };
        let plot = Plot { title: "t", x: "x", y: "y", series: vec![series], is_logarithmic: false, counts: true };
        let text = file(&plot.svg());
        assert!(text.starts_with("<svg") && text.contains("><style>") && text.contains("&lt;b&gt;&amp;"), "{text}");
        assert!(!text.contains("<b>"));
    }
}
