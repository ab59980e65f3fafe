//! Plots as SVG. Main function: [`plot`].

use plotters::{
    chart::{ChartBuilder, SeriesLabelPosition},
    drawing::IntoDrawingArea,
    element::{Circle, PathElement},
    prelude::SVGBackend,
    series::LineSeries,
    style::{BLACK, Color, RGBColor, ShapeStyle, WHITE},
};

const SIZE: (u32, u32) = (640, 380);
/// Okabe and Ito's palette, which colour-blind people can tell apart.
const COLORS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(240, 228, 66),
    RGBColor(90, 90, 90),
];
/// A range of times that is wider than this is drawn on a logarithmic axis.
const WIDE: f64 = 50.0;
/// Title of the axes that show times, which have long tails.
pub const MS: &str = "ms";

/// What is drawn, and how.
pub struct Plot {
    /// Above.
    pub title: &'static str,
    /// Below and to the left, with units.
    pub axes: [&'static str; 2],
    /// Points or lines.
    pub marks: Marks,
    /// In the order of the legend.
    pub series: Vec<Series>,
}

/// How points are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// Joined.
    Lines,
    /// Each for itself.
    Points,
}

/// Points with a name.
pub struct Series {
    /// In the legend.
    pub name: String,
    /// `(x, y)`.
    pub points: Vec<(f64, f64)>,
}

/// One axis: which values it shows, and whether by their logarithms.
#[derive(Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
}

/// The plot as an `<svg>` element; nothing where there are no points.
pub fn plot(plot: &Plot) -> String {
    let points = || plot.series.iter().flat_map(|series| &series.points);
    let [x_title, y_title] = plot.axes;
    let x = Axis::of(x_title, points().map(|point| point.0));
    let y = Axis::of(y_title, points().map(|point| point.1));
    let (Some(x), Some(y)) = (x, y) else { return String::new() };
    let mut svg = String::new();
    draw(plot, [x, y], &mut svg).expect("drawing into a string does not fail");
    svg
}

fn draw(plot: &Plot, [x, y]: [Axis; 2], svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(plot.title, ("sans-serif", 17))
        .margin(10)
        .x_label_area_size(42)
        .y_label_area_size(62)
        .build_cartesian_2d(x.low..x.high, y.low..y.high)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(plot.axes[0])
        .y_desc(plot.axes[1])
        .x_label_formatter(&|at| x.label(*at))
        .y_label_formatter(&|at| y.label(*at))
        .label_style(("sans-serif", 12))
        .draw()?;
    for (series, color) in plot.series.iter().zip(COLORS.iter().cycle()) {
        let points = series.points.iter().map(|point| (x.place(point.0), y.place(point.1)));
        let style = ShapeStyle::from(color).stroke_width(2);
        let drawn = match plot.marks {
            Marks::Lines => chart.draw_series(LineSeries::new(points, style))?,
            Marks::Points => chart.draw_series(points.map(|point| Circle::new(point, 2, color.filled())))?,
        };
        drawn
            .label(series.name.as_str())
            .legend(move |(left, middle)| PathElement::new(vec![(left, middle), (left + 16, middle)], style));
    }
    if plot.series.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.2))
            .label_font(("sans-serif", 11))
            .draw()?;
    }
    area.present()?;
    Ok(())
}

impl Axis {
    fn of(title: &str, values: impl Iterator<Item = f64>) -> Option<Self> {
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if !(low.is_finite() && high.is_finite()) {
            return None;
        }
        let logarithmic = title == MS && low > 0.0 && high / low > WIDE;
        let (low, high) = if logarithmic { (low.log10(), high.log10()) } else { (low.min(0.0), high) };
        let room = ((high - low) * 0.04).max(1e-9);
        Some(Self { low, high: high + room, logarithmic })
    }

    fn place(self, value: f64) -> f64 {
        if self.logarithmic { value.log10() } else { value }
    }

    fn label(self, at: f64) -> String {
        let value = if self.logarithmic { 10f64.powf(at) } else { at };
        let decimals = match value.abs() {
            size if size >= 100.0 => 0,
            size if size >= 10.0 => 1,
            _ => 2,
        };
        format!("{value:.decimals$}")
    }
}
