//! Charts as SVG: lines over a size, or bars side by side. Colours that the colour-blind can tell apart, text in a size
//! that a README shows legibly, and a light ground of their own, since a reader's may be dark.

use std::fmt::Write;

use super::table;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 56.0;
const PLOT: f64 = 280.0;
const BOTTOM: f64 = 52.0;
/// Okabe and Ito's palette.
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555",
];

/// One line of points, or one colour of bars.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Both axes logarithmic: a power law is a straight line.
    Lines,
    /// Groups of bars, by name; a series' x is the group's number.
    Bars(Vec<String>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// Of the file, without its ending.
    pub name: String,
    pub title: String,
    pub x: String,
    pub y: String,
    pub kind: Kind,
    pub series: Vec<Series>,
}

impl Chart {
    /// Where the names of the series begin: what they need is theirs.
    fn right(&self) -> f64 {
        let longest = self.series.iter().map(|series| series.name.chars().count());
        WIDTH - (48.0 + 7.0 * longest.max().unwrap_or(0) as f64).min(WIDTH / 2.0)
    }

    pub fn svg(&self) -> String {
        let height = TOP + PLOT + BOTTOM + self.label_room();
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
             font-size=\"13\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"#fff\"/>\n"
        );
        text(
            &mut svg,
            16.0,
            26.0,
            "start",
            "font-size=\"16\" font-weight=\"bold\"",
            &self.title,
        );
        text(&mut svg, 16.0, 46.0, "start", "fill=\"#555\"", &self.y);
        match &self.kind {
            Kind::Lines => self.lines(&mut svg),
            Kind::Bars(groups) => self.bars(&mut svg, groups),
        }
        svg + "</svg>\n"
    }

    /// Long names of groups are written aslant.
    fn label_room(&self) -> f64 {
        match &self.kind {
            Kind::Bars(groups) if slanted(groups) => 60.0,
            _ => 0.0,
        }
    }

    fn lines(&self, svg: &mut String) {
        let all = || self.series.iter().flat_map(|series| &series.points);
        let x = Axis::logarithmic(all().map(|(x, _)| *x), LEFT, self.right());
        let y = Axis::logarithmic(all().map(|(_, y)| *y), TOP + PLOT, TOP);
        y.rules(svg, self.right());
        let mut before = f64::INFINITY;
        for size in sizes(all().map(|(x, _)| *x)).into_iter().rev() {
            // The largest first: what has no room before it goes without a label.
            if before - x.at(size) > 36.0 {
                before = x.at(size);
                let label = table::size(size as u64);
                text(svg, before, TOP + PLOT + 20.0, "middle", "", &label);
            }
        }
        text(
            svg,
            (LEFT + self.right()) / 2.0,
            TOP + PLOT + 42.0,
            "middle",
            "fill=\"#555\"",
            &self.x,
        );
        let mut labels = Vec::new();
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let places: Vec<(f64, f64)> = series
                .points
                .iter()
                .map(|(px, py)| (x.at(*px), y.at(*py)))
                .collect();
            let path: Vec<String> = places
                .iter()
                .map(|(x, y)| format!("{x:.1},{y:.1}"))
                .collect();
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>",
                path.join(" ")
            );
            for (x, y) in &places {
                let _ = writeln!(
                    svg,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>"
                );
            }
            if let Some((_, y)) = places.last() {
                labels.push((*y, series.name.clone(), *colour));
            }
        }
        for (y, name, colour) in apart(labels) {
            let style = format!("fill=\"{colour}\"");
            text(svg, self.right() + 12.0, y + 4.0, "start", &style, &name);
        }
    }

    fn bars(&self, svg: &mut String, groups: &[String]) {
        let all = || self.series.iter().flat_map(|series| &series.points);
        let y = Axis::linear(all().map(|(_, y)| *y), TOP + PLOT, TOP);
        y.rules(svg, self.right());
        let group = (self.right() - LEFT) / groups.len().max(1) as f64;
        let bar = group * 0.8 / self.series.len().max(1) as f64;
        for (number, (series, colour)) in self.series.iter().zip(COLOURS.iter().cycle()).enumerate()
        {
            for (place, value) in &series.points {
                let left = LEFT + group * (place + 0.1) + bar * number as f64;
                let top = y.at(*value);
                let _ = writeln!(
                    svg,
                    "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
                    bar * 0.94,
                    TOP + PLOT - top
                );
                if bar > 22.0 {
                    let value = short(*value);
                    text(
                        svg,
                        left + bar * 0.47,
                        top - 4.0,
                        "middle",
                        "font-size=\"11\" fill=\"#555\"",
                        &value,
                    );
                }
            }
            let at = TOP + 20.0 * number as f64;
            let left = self.right() + 12.0;
            let _ = writeln!(
                svg,
                "<rect x=\"{left}\" y=\"{at}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>"
            );
            text(svg, left + 18.0, at + 11.0, "start", "", &series.name);
        }
        let slanted = slanted(groups);
        for (number, name) in groups.iter().enumerate() {
            let middle = LEFT + group * (number as f64 + 0.5);
            let at = TOP + PLOT + 20.0;
            if slanted {
                let style = format!("transform=\"rotate(-25 {middle:.1} {at})\"");
                text(svg, middle + 8.0, at, "end", &style, name);
            } else {
                text(svg, middle, at, "middle", "", name);
            }
        }
        let below = TOP + PLOT + 42.0 + self.label_room();
        text(
            svg,
            (LEFT + self.right()) / 2.0,
            below,
            "middle",
            "fill=\"#555\"",
            &self.x,
        );
    }
}

/// A number with as many digits as matter, and no more.
fn short(value: f64) -> String {
    let number = table::number(value);
    match number.contains('.') {
        true => number
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned(),
        false => number,
    }
}

fn slanted(groups: &[String]) -> bool {
    let room = (WIDTH * 0.7 - LEFT) / groups.len().max(1) as f64;
    groups
        .iter()
        .any(|name| name.chars().count() as f64 * 7.0 > room)
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, style: &str, text: &str) {
    let text = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{text}</text>"
    );
}

/// The sizes that were measured, each once.
fn sizes(all: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut sizes: Vec<f64> = all.collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    sizes
}

/// Moves labels down until none hides another.
fn apart<T>(mut labels: Vec<(f64, String, T)>) -> Vec<(f64, String, T)> {
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    for i in 1..labels.len() {
        labels[i].0 = labels[i].0.max(labels[i - 1].0 + 16.0);
    }
    labels
}

/// From values to places.
struct Axis {
    from: f64,
    to: f64,
    start: f64,
    end: f64,
    logarithmic: bool,
}

impl Axis {
    fn logarithmic(values: impl Iterator<Item = f64>, start: f64, end: f64) -> Self {
        let values: Vec<f64> = values.filter(|value| *value > 0.0).collect();
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = if low.is_finite() {
            (low, high)
        } else {
            (1.0, 10.0)
        };
        // A rule below and one above.
        let below = ticks(low / 10.0, low).last().copied().unwrap_or(low);
        let above = ticks(high, high * 10.0).first().copied().unwrap_or(high);
        let (from, to) = if start < end {
            (low, high.max(low * 2.0))
        } else {
            (below, above)
        };
        Self {
            from,
            to,
            start,
            end,
            logarithmic: true,
        }
    }

    fn linear(values: impl Iterator<Item = f64>, start: f64, end: f64) -> Self {
        let high = values.fold(0.0, f64::max);
        Self {
            from: 0.0,
            to: if high > 0.0 { high * 1.08 } else { 1.0 },
            start,
            end,
            logarithmic: false,
        }
    }

    fn at(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        self.start + (self.end - self.start) * share.clamp(0.0, 1.0)
    }

    /// Horizontal rules with their values.
    fn rules(&self, svg: &mut String, right: f64) {
        let values = if self.logarithmic {
            ticks(self.from, self.to)
        } else {
            let step = ticks(self.to / 12.0, self.to / 2.0)
                .into_iter()
                .find(|step| self.to / step <= 6.0);
            let step = step.unwrap_or(self.to / 4.0);
            (0..=(self.to / step) as u32)
                .map(|i| f64::from(i) * step)
                .collect()
        };
        for value in values {
            let at = self.at(value);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>",
                right
            );
            let label = if value >= 10_000.0 {
                table::grouped(value as i64)
            } else {
                format!("{value}")
            };
            text(svg, LEFT - 8.0, at + 4.0, "end", "fill=\"#555\"", &label);
        }
    }
}

/// 1, 2 and 5 times powers of ten, from the first not below `low` to the last not above `high`.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let first = low.log10().floor() as i32;
    let last = high.log10().ceil() as i32;
    (first..=last)
        .flat_map(|power| {
            [1.0, 2.0, 5.0].map(|digit| {
                if power < 0 {
                    digit / 10_f64.powi(-power)
                } else {
                    digit * 10_f64.powi(power)
                }
            })
        })
        .filter(|tick| *tick >= low * 0.999_999 && *tick <= high * 1.000_001)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_1_2_and_5_of_every_power_of_ten() {
        assert_eq!(ticks(0.1, 3.0), [0.1, 0.2, 0.5, 1.0, 2.0]);
        assert_eq!(ticks(30.0, 200.0), [50.0, 100.0, 200.0]);
    }

    #[test]
    fn labels_do_not_hide_each_other() {
        let labels = [(10.0, "b", ()), (9.0, "a", ()), (100.0, "c", ())];
        let labels = labels
            .map(|(y, name, ())| (y, name.to_owned(), ()))
            .to_vec();
        let places: Vec<f64> = apart(labels).into_iter().map(|(y, ..)| y).collect();
        assert_eq!(places, [9.0, 25.0, 100.0]);
    }

    #[test]
    fn a_chart_is_whole_and_says_what_it_was_told() {
        let chart = Chart {
            name: "c".into(),
            title: "a < b".into(),
            x: "flows".into(),
            y: "ns".into(),
            kind: Kind::Lines,
            series: vec![Series {
                name: "known".into(),
                points: vec![(1.0, 50.0), (65_536.0, 140.0)],
            }],
        };
        let svg = chart.svg();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        for text in ["a &lt; b", ">known<", ">64k<", ">100<"] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
    }
}
