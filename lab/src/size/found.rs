//! Which of the settings tried is the answer.

/// A setting that was tried.
pub trait Trial {
    /// How many requests it did not serve.
    fn failed(&self) -> u64;
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Found<T> {
    /// Every setting tried, ascending.
    pub tried: Vec<T>,
    /// Index of the answer: the least setting from which on all that were tried serve.
    pub answer: Option<usize>,
}

impl<T: Trial> Found<T> {
    /// Of settings in ascending order.
    pub fn new(tried: Vec<T>) -> Self {
        let answer = match tried.iter().rposition(|tried| tried.failed() > 0) {
            None => (!tried.is_empty()).then_some(0),
            Some(last) => (last + 1 < tried.len()).then_some(last + 1),
        };
        Self { tried, answer }
    }

    /// The answer.
    pub fn answer(&self) -> Option<&T> {
        self.tried.get(self.answer?)
    }

    /// The next smaller setting, which fails.
    pub fn below(&self) -> Option<&T> {
        self.tried.get(self.answer?.checked_sub(1)?)
    }

    /// Settings below the answer that happen to serve: where runs of free memory are left depends
    /// on the size, so a larger setting can fail where a smaller one did not.
    pub fn serving_below(&self) -> impl Iterator<Item = &T> {
        let answer = self.answer.unwrap_or(0);
        let below = self.tried.iter().take(answer);
        below.filter(|tried| tried.failed() == 0)
    }

    /// The answer itself if it leaves enough room above what is in use, else the next setting
    /// that does; and how much the answer leaves, in per cent. `sizes` gives size and high water.
    pub fn with_headroom(&self, sizes: impl Fn(&T) -> (u64, u64)) -> Option<(&T, u64)> {
        let answer = self.answer()?;
        let (size, high) = sizes(answer);
        let headroom = |size: u64| size.saturating_sub(high) * 100 / high.max(1);
        let chosen = self
            .tried
            .iter()
            .skip(self.answer?)
            .find(|tried| headroom(sizes(tried).0) >= HEADROOM_PERCENT)
            .unwrap_or(answer);
        Some((chosen, headroom(size)))
    }
}

/// A quarter above what was seen: below that, one more request of the usual kind is a failure.
pub const HEADROOM_PERCENT: u64 = 25;

/// Why there is a margin.
pub fn headroom_rule() -> String {
    format!(
        "at least {HEADROOM_PERCENT} % above the most that was in use, as a trace shows one run of \
         one workload"
    )
}

/// Share of requests that failed, in parts per million first, so that the decimal is short.
pub fn ratio(failed: u64, requests: u64) -> f64 {
    (failed * 1_000_000 / requests.max(1)) as f64 / 1e6
}
