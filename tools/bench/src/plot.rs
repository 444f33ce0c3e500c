// SPDX-License-Identifier: GPL-2.0-only
//! Figures as a picture: a pair of bars for each operation, longest is worst.

use anyhow::{anyhow, Result};
use plotters::prelude::*;

use crate::figures::Figure;
use crate::operations::title;

const WIDTH: u32 = 900;
const ROW: i32 = 44;
const LEFT: i32 = 430;
const RIGHT: i32 = 90;
const TOP: i32 = 50;
const BAR: i32 = 14;

/// Providers, and colours that differ for all eyes.
const PROVIDERS: [(&str, &str, RGBColor); 2] = [
    ("builtin", "built-in provider", RGBColor(230, 159, 0)),
    ("guest_lbr", "guest_lbr", RGBColor(0, 114, 178)),
];

fn value(figures: &[&Figure], operation: &str, provider: &str) -> Option<f64> {
    let mut figures = figures.iter();
    let figure = figures.find(|f| f.operation == operation && f.place.provider == provider)?;
    Some(figure.instructions)
}

/// Draws these operations of one machine and configuration.
///
/// # Errors
///
/// If the picture cannot be drawn.
pub fn bars(
    figures: &[Figure],
    machine: &str,
    config: &str,
    operations: &[&str],
) -> Result<String> {
    let own: Vec<_> = figures
        .iter()
        .filter(|f| f.place.machine == machine && f.place.config == config)
        .collect();
    let is_there = |name: &&&str| {
        PROVIDERS
            .iter()
            .any(|(p, ..)| value(&own, name, p).is_some())
    };
    let operations: Vec<_> = operations.iter().filter(is_there).collect();
    let all = operations
        .iter()
        .flat_map(|name| PROVIDERS.iter().filter_map(|(p, ..)| value(&own, name, p)));
    let longest = all.fold(1.0, f64::max);
    let height = TOP + ROW * i32::try_from(operations.len())? + 10;
    let mut text = String::new();
    {
        let area =
            SVGBackend::with_string(&mut text, (WIDTH, u32::try_from(height)?)).into_drawing_area();
        draw(&area, &own, &operations, longest).map_err(|error| anyhow!("{error}"))?;
        area.present().map_err(|error| anyhow!("{error}"))?;
    }
    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(
    area: &Area<'_>,
    figures: &[&Figure],
    operations: &[&&str],
    longest: f64,
) -> Result<(), Box<dyn std::error::Error>> {
    let font = |size: i32| ("sans-serif", size).into_font();
    area.fill(&WHITE)?;
    for (at, (_, name, colour)) in (0..).zip(&PROVIDERS) {
        let x = LEFT + at * 170;
        area.draw(&Rectangle::new([(x, 14), (x + 14, 28)], colour.filled()))?;
        area.draw(&Text::new(*name, (x + 20, 14), font(15)))?;
    }
    let scale = f64::from(i32::try_from(WIDTH)? - LEFT - RIGHT) / longest;
    for (row, name) in (0..).zip(operations) {
        let y = TOP + row * ROW;
        let title = title(name).unwrap_or_else(|| (**name).to_string());
        area.draw(&Text::new(title, (8, y + 6), font(14)))?;
        for (at, (provider, _, colour)) in (0..).zip(&PROVIDERS) {
            let Some(value) = value(figures, name, provider) else {
                continue;
            };
            let y = y + at * (BAR + 2);
            let end = LEFT + (value.max(0.0) * scale).round() as i32;
            area.draw(&Rectangle::new(
                [(LEFT, y), (end.max(LEFT + 1), y + BAR)],
                colour.filled(),
            ))?;
            area.draw(&Text::new(format!("{value:.0}"), (end + 6, y), font(13)))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Place;

    #[test]
    fn bars_are_as_long_as_their_values() -> Result<()> {
        let figure = |provider: &str, instructions| Figure {
            operation: "exit_idle".into(),
            place: Place {
                machine: "skylake".into(),
                config: "lab".into(),
                provider: provider.into(),
            },
            instructions,
            min: instructions,
            max: instructions,
            exits: 1.0,
            msr_accesses: 0.0,
            bitmap_flips: 0.0,
        };
        let figures = [figure("builtin", 2000.0), figure("guest_lbr", 500.0)];
        let picture = bars(&figures, "skylake", "lab", &["exit_idle", "nothing"])?;
        assert!(picture.contains("width=\"380\" height=\"14\""), "{picture}");
        assert!(picture.contains("width=\"95\" height=\"14\""), "{picture}");
        assert!(picture.contains("CPUID exit, LBR not used"));
        Ok(())
    }
}
