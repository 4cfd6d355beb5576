//! Quantiles of Student's t distribution.

use std::f64::consts::FRAC_PI_2;

/// Steps of the integration; enough for four digits at any use here.
const STEPS: u32 = 40_000;

/// The value that t exceeds with probability `tail` (below a half), with `freedom` degrees.
///
/// With t = sqrt(freedom) tan(angle) the density is a power of the cosine, which is summed from the
/// middle outwards.
pub fn quantile(tail: f64, freedom: usize) -> f64 {
    let freedom = freedom.max(1);
    let power = i32::try_from(freedom - 1).unwrap_or(i32::MAX);
    let step = FRAC_PI_2 / f64::from(STEPS);
    let density = |index: u32| (step * (f64::from(index) + 0.5)).cos().powi(power);
    let half: f64 = (0..STEPS).map(density).sum();
    let wanted = half * (1.0 - 2.0 * tail);
    let mut sum = 0.0;
    for index in 0..STEPS {
        sum += density(index);
        if sum >= wanted {
            let angle = step * f64::from(index + 1);
            return (freedom as f64).sqrt() * angle.tan();
        }
    }
    f64::INFINITY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        let known = [
            (0.025, 1, 12.706),
            (0.025, 5, 2.571),
            (0.025, 30, 2.042),
            (0.2, 3, 0.978),
            (0.0005, 10, 4.587),
        ];
        for (tail, freedom, value) in known {
            let found = quantile(tail, freedom);
            assert!((found - value).abs() < 0.005 * value, "{found} {value}");
        }
    }
}
