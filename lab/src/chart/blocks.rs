//! A filled plot from block characters.

const EIGHTHS: [char; 9] = [
    ' ', '\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}',
    '\u{2588}',
];

/// One string per row, top first, each `columns` wide. A column shows the
/// greatest of the values that fall into it; what is above zero is never
/// blank. A column whose value is the greatest of all fills it.
pub fn blocks(values: &[u64], columns: usize, rows: usize) -> Vec<String> {
    let columns = columns.clamp(1, values.len().max(1));
    let top = values.iter().copied().max().unwrap_or(0).max(1);
    let full = rows as u128 * 8;
    let heights: Vec<u128> = (0..columns)
        .map(|column| {
            let from = column * values.len() / columns;
            let to = ((column + 1) * values.len() / columns).max(from + 1);
            let most = values.get(from..to.min(values.len()));
            let most = most.and_then(|v| v.iter().max()).copied().unwrap_or(0);
            (u128::from(most) * full).div_ceil(u128::from(top))
        })
        .collect();
    (0..rows)
        .rev()
        .map(|row| {
            let below = row as u128 * 8;
            heights
                .iter()
                .map(|height| EIGHTHS[height.saturating_sub(below).min(8) as usize])
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_value_fills_its_column_and_little_is_not_nothing() {
        let rows = blocks(&[0, 1, 1000], 3, 2);
        assert_eq!(rows, ["  \u{2588}", " \u{2581}\u{2588}"]);
    }

    #[test]
    fn nothing_is_blank_and_never_fails() {
        assert_eq!(blocks(&[], 10, 1), [" "]);
        assert_eq!(blocks(&[0, 0], 10, 1), ["  "]);
    }
}
