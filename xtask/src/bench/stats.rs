//! What samples say: medians, quartiles, and how a cost grows.

/// The value below which a share of the samples lies, between neighbours in proportion. NaN: there are none.
pub fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = share.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * place.fract()
}

pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// The distance of the quartiles as a share of the median: half of the samples are that close together. Of a median of
/// nothing there is no share.
pub fn spread(samples: &[f64]) -> f64 {
    let median = median(samples).abs();
    if median == 0.0 {
        return 0.0;
    }
    (quantile(samples, 0.75) - quantile(samples, 0.25)) / median
}

pub fn least(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::NAN, f64::min)
}

/// The exponent `e` of `cost = a * size^e`, by least squares on logarithms. None: fewer than three sizes, or a cost that
/// has no logarithm.
pub fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let mut sizes: Vec<f64> = points.iter().map(|(size, _)| *size).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    if sizes.len() < 3
        || points
            .iter()
            .any(|(size, cost)| *size <= 0.0 || *cost <= 0.0)
    {
        return None;
    }
    let count = points.len() as f64;
    let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let mean_x = logs.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = logs.iter().map(|(_, y)| y).sum::<f64>() / count;
    let covariance: f64 = logs.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = logs.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    Some(covariance / variance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn equal_samples_have_no_spread() {
        assert_eq!(spread(&[3.0, 3.0, 3.0]), 0.0);
        assert_eq!(spread(&[0.0]), 0.0);
        assert_eq!(spread(&[1.0, 2.0, 3.0, 4.0, 5.0]), 2.0 / 3.0);
    }

    #[test]
    fn the_exponent_is_that_of_the_power_law() {
        let points = |power: f64| [10.0, 1e3, 1e5].map(|x: f64| (x, 7.0 * x.powf(power)));
        for power in [0.0, 0.5, 1.0, 2.0] {
            let fitted = exponent(&points(power)).unwrap();
            assert!((fitted - power).abs() < 1e-9, "{fitted} for {power}");
        }
        assert_eq!(exponent(&points(1.0)[..2]), None);
        assert_eq!(exponent(&[(1.0, 1.0), (2.0, 0.0), (3.0, 1.0)]), None);
    }
}
