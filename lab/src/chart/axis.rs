//! Scales and round numbers.

/// Maps a range of values to a range of pixels.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    from: f64,
    to: f64,
    start_px: f64,
    end_px: f64,
}

impl Scale {
    /// An empty range of values maps to the start.
    pub fn new(from: f64, to: f64, start_px: f64, end_px: f64) -> Self {
        Self {
            from,
            to,
            start_px,
            end_px,
        }
    }

    /// Where `value` stands.
    pub fn px(self, value: f64) -> f64 {
        if self.to <= self.from {
            return self.start_px;
        }
        let share = (value - self.from) / (self.to - self.from);
        self.start_px + share * (self.end_px - self.start_px)
    }
}

/// One decimal is finer than a screen shows.
pub fn px(value: f64) -> String {
    format!("{value:.1}")
}

/// The greatest step of 1, 2 or 5 times a power of ten that gives at least
/// `count` ticks up to `max`, and the ticks.
pub fn ticks(from: f64, to: f64, count: u32) -> Vec<f64> {
    let span = to - from;
    if span <= 0.0 || !span.is_finite() {
        return vec![from];
    }
    let raw = span / f64::from(count.max(1));
    let power = 10f64.powf(raw.log10().floor());
    let step = [5.0, 2.0, 1.0]
        .iter()
        .map(|factor| factor * power)
        .find(|step| *step <= raw * 1.000_001)
        .unwrap_or(power);
    let first = (from / step).ceil() as i64;
    let last = (to / step).floor() as i64;
    (first..=last).map(|n| n as f64 * step).collect()
}

/// A tick's label without needless decimals.
pub fn label(value: f64) -> String {
    if value.fract().abs() < 1e-9 && value >= 0.0 {
        crate::quantity::grouped(value as u64)
    } else {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(0.0, 0.0, 5), [0.0]);
        let some = ticks(4.3, 13.9, 8);
        assert!(some.iter().all(|t| (4.3..=13.9).contains(t)), "{some:?}");
    }

    #[test]
    fn an_empty_range_does_not_divide() {
        assert_eq!(Scale::new(1.0, 1.0, 10.0, 20.0).px(5.0), 10.0);
    }
}
