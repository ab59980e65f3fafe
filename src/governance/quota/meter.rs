//! What one scope has used: the last minute, what runs, the day and the month.
//!
//! A [`Window`] counts in slots of a second, each of which counts until its last moment is 60 seconds old: in no 60 seconds
//! can more be admitted than the limit, and what was admitted is free again after at most 61.

use std::collections::VecDeque;

use super::{Amount, LimitKind, Limits, Standing, calendar};

const WINDOW_S: u64 = 60;

/// What is in the way.
pub(super) struct Excess {
    pub(super) limit: u64,
    pub(super) used: u64,
    pub(super) needed: u64,
    pub(super) free_in_ms: Option<u64>,
}

pub(super) struct Meter {
    pub(super) requests: Window,
    pub(super) tokens: Window,
    running: u64,
    budgets: Budgets,
}

/// The seconds in which something counts in the windows of a meter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots {
    requests: u64,
    tokens: u64,
}

/// The last minute, in seconds.
#[derive(Debug, Default)]
pub(super) struct Window {
    slots: VecDeque<(u64, u64)>,
}

/// Day and month.
pub(super) struct Budgets {
    day: Budget,
    month: Budget,
}

struct Budget {
    period: String,
    end_ms: u64,
    used: u64,
    reserved: u64,
}

impl Meter {
    pub(super) fn new(budgets: Budgets) -> Self {
        Self { requests: Window::default(), tokens: Window::default(), running: 0, budgets }
    }

    /// The first limit that so much more would exceed.
    pub(super) fn exceeds(&mut self, limits: &Limits, asked: Amount, now_ms: u64) -> Option<(LimitKind, Excess)> {
        let Amount { requests: needed, tokens } = asked;
        self.budgets.turn(now_ms);
        let month = limits.tokens_per_month.and_then(|limit| self.budgets.month.exceeds(limit, tokens, now_ms));
        let day = limits.tokens_per_day.and_then(|limit| self.budgets.day.exceeds(limit, tokens, now_ms));
        let requests = limits.requests_per_minute.and_then(|limit| self.requests.exceeds(limit, needed, now_ms));
        let per_minute = limits.tokens_per_minute.and_then(|limit| self.tokens.exceeds(limit, tokens, now_ms));
        let running = limits.concurrent_requests.filter(|&limit| self.running.saturating_add(needed) > limit);
        let running = running.map(|limit| Excess { limit, used: self.running, needed, free_in_ms: None });
        // What is free last is told first.
        [
            (LimitKind::TokensPerMonth, month),
            (LimitKind::TokensPerDay, day),
            (LimitKind::TokensPerMinute, per_minute),
            (LimitKind::RequestsPerMinute, requests),
            (LimitKind::ConcurrentRequests, running),
        ]
        .into_iter()
        .find_map(|(kind, excess)| excess.map(|excess| (kind, excess)))
    }

    /// Gives where it counts, for its end.
    pub(super) fn reserve(&mut self, asked: Amount, now_ms: u64) -> Slots {
        let Amount { requests, tokens } = asked;
        let slots = Slots { requests: self.requests.add(requests, now_ms), tokens: self.tokens.add(tokens, now_ms) };
        self.running = self.running.saturating_add(requests);
        self.budgets.turn(now_ms);
        for budget in self.budgets.both() {
            budget.reserved = budget.reserved.saturating_add(tokens);
        }
        slots
    }

    /// The end of what was reserved in these slots: `None` was used if it never began. Gives the periods in which it counts.
    pub(super) fn settle(&mut self, reserved: Amount, used: Option<u64>, slots: Slots) -> Vec<String> {
        let Amount { requests, tokens } = reserved;
        self.running = self.running.saturating_sub(requests);
        if used.is_none() {
            self.requests.correct(requests, 0, slots.requests);
        }
        let used = used.unwrap_or(0);
        self.tokens.correct(tokens, used, slots.tokens);
        for budget in self.budgets.both() {
            budget.reserved = budget.reserved.saturating_sub(tokens);
            budget.used = budget.used.saturating_add(used);
        }
        self.budgets.both().into_iter().map(|budget| budget.period.clone()).collect()
    }
}

impl Window {
    pub(super) fn standing(&mut self, limit: u64, now_ms: u64) -> Standing {
        let used = self.used(now_ms);
        let newest = self.slots.iter().rev().find(|(_, amount)| *amount > 0).map(|&(second, _)| second);
        let reset_ms = newest.map_or(0, |second| freed_ms(second).saturating_sub(now_ms));
        Standing { limit, remaining: limit.saturating_sub(used), reset_ms }
    }

    pub(super) fn exceeds(&mut self, limit: u64, needed: u64, now_ms: u64) -> Option<Excess> {
        let used = self.used(now_ms);
        if used.saturating_add(needed) <= limit {
            return None;
        }
        let mut left = used;
        let frees = self.slots.iter().find(|(_, amount)| {
            left = left.saturating_sub(*amount);
            left.saturating_add(needed) <= limit
        });
        let free_in_ms = frees.map(|&(second, _)| freed_ms(second).saturating_sub(now_ms));
        Some(Excess { limit, used, needed, free_in_ms })
    }

    /// Says in which second it counts.
    pub(super) fn add(&mut self, amount: u64, now_ms: u64) -> u64 {
        // A clock that goes back counts as one that stands.
        let second = self.slots.back().map_or(0, |&(newest, _)| newest).max(now_ms / 1000);
        match self.slots.back_mut() {
            Some((newest, sum)) if *newest == second => *sum = sum.saturating_add(amount),
            Some(_) | None => self.slots.push_back((second, amount)),
        }
        second
    }

    /// What was added in this second was another amount. Once it counts no more there is nothing to correct.
    fn correct(&mut self, was: u64, is: u64, then: u64) {
        let slot = self.slots.iter_mut().find(|(second, _)| *second == then);
        if let Some((_, amount)) = slot {
            *amount = amount.saturating_sub(was).saturating_add(is);
        }
    }

    fn used(&mut self, now_ms: u64) -> u64 {
        while self.slots.front().is_some_and(|&(second, _)| freed_ms(second) <= now_ms) {
            self.slots.pop_front();
        }
        self.slots.iter().fold(0, |sum, (_, amount)| sum.saturating_add(*amount))
    }
}

/// When the last moment of a slot is as old as the window.
fn freed_ms(second: u64) -> u64 {
    (second + 1 + WINDOW_S) * 1000
}

impl Budgets {
    /// With what was used before, by the names of periods.
    pub(super) fn new(now_ms: u64, used: impl Fn(String) -> u64) -> Self {
        let budget =
            |(period, end_ms): (String, u64)| Budget { used: used(period.clone()), period, end_ms, reserved: 0 };
        Self { day: budget(calendar::day(now_ms)), month: budget(calendar::month(now_ms)) }
    }

    /// Begins a new period where one is over. What is under way counts in the new one.
    fn turn(&mut self, now_ms: u64) {
        for (budget, period) in [(&mut self.day, calendar::day as fn(u64) -> _), (&mut self.month, calendar::month)] {
            if now_ms >= budget.end_ms {
                (budget.period, budget.end_ms) = period(now_ms);
                budget.used = 0;
            }
        }
    }

    fn both(&mut self) -> [&mut Budget; 2] {
        [&mut self.day, &mut self.month]
    }
}

impl Budget {
    fn exceeds(&self, limit: u64, needed: u64, now_ms: u64) -> Option<Excess> {
        let used = self.used.saturating_add(self.reserved);
        let fits = used.saturating_add(needed) <= limit;
        let free_in_ms = (needed <= limit).then(|| self.end_ms.saturating_sub(now_ms));
        (!fits).then_some(Excess { limit, used, needed, free_in_ms })
    }
}
