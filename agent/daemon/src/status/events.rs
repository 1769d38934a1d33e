// SPDX-License-Identifier: Apache-2.0
//! Events: the last few for the console, and a queue of those HQ has not confirmed yet.

use provisioning_protocol::report::{Event, REPORT_EVENTS_MAX};
use std::collections::VecDeque;

/// Events shown on the console.
const SHOWN_MAX: usize = 20;
/// Events kept for HQ while it is away; the oldest go first (they stay in the causes file).
pub const QUEUED_MAX: usize = 1000;

/// The events.
#[derive(Debug, Default)]
pub struct Events {
    shown: VecDeque<Event>,
    queued: VecDeque<Event>,
    dropped: u64,
}

impl Events {
    /// What an earlier run of the agent noted: the last ones are shown, and those after `sent`
    /// wait for HQ. If it is not among them, all wait: HQ knows what it has.
    #[must_use]
    pub fn recalled(noted: Vec<Event>, sent: Option<&Event>) -> Self {
        let known = sent.and_then(|sent| noted.iter().rposition(|event| event == sent));
        let unsent = noted.iter().skip(known.map_or(0, |at| at + 1)).cloned();
        let queued: VecDeque<Event> = unsent.collect();
        let shown = noted[noted.len().saturating_sub(SHOWN_MAX)..].iter().cloned().collect();
        Self { shown, queued, dropped: 0 }
    }

    /// A time for the next event that is not the last one's: HQ knows an event by its time and
    /// words.
    #[must_use]
    pub fn apart(&self, at_ms: u64) -> u64 {
        match self.shown.back() {
            Some(last) if last.at_ms == at_ms => at_ms.saturating_add(1),
            _ => at_ms,
        }
    }

    /// Adds one.
    pub fn push(&mut self, event: Event) {
        self.shown.push_back(event.clone());
        if self.shown.len() > SHOWN_MAX {
            self.shown.pop_front();
        }
        self.queued.push_back(event);
        if self.queued.len() > QUEUED_MAX {
            self.queued.pop_front();
            self.dropped += 1;
        }
    }

    /// The last ones, newest last.
    #[must_use]
    pub fn shown(&self) -> Vec<Event> {
        self.shown.iter().cloned().collect()
    }

    /// The oldest ones HQ has not confirmed, and a mark for [`Events::confirm`].
    #[must_use]
    pub fn batch(&self) -> (Vec<Event>, u64) {
        let batch: Vec<Event> = self.queued.iter().take(REPORT_EVENTS_MAX).cloned().collect();
        let mark = self.dropped + batch.len() as u64;
        (batch, mark)
    }

    /// HQ has everything up to the mark. Gives the last event that it did not have before.
    pub fn confirm(&mut self, mark: u64) -> Option<Event> {
        let mut last = None;
        while self.dropped < mark {
            last = Some(self.queued.pop_front()?);
            self.dropped += 1;
        }
        last
    }

    /// Whether HQ lacks some.
    #[must_use]
    pub fn waiting(&self) -> bool {
        !self.queued.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: u64) -> Event {
        Event { at_ms: n, code: "test".into(), text: String::new() }
    }

    #[test]
    fn events_wait_for_hq_and_leave_in_order_once() {
        let mut events = Events::default();
        (0..150).for_each(|n| events.push(event(n)));
        let (first, mark) = events.batch();
        assert_eq!((first.len(), first[0].at_ms), (REPORT_EVENTS_MAX, 0));
        events.push(event(150));
        events.confirm(mark);
        events.confirm(mark);
        let (second, _) = events.batch();
        assert_eq!((second.len(), second[0].at_ms), (51, 100));
        assert_eq!(events.shown().len(), SHOWN_MAX);
    }

    #[test]
    fn an_overflow_during_a_report_confirms_no_event_unsent() {
        let mut events = Events::default();
        (0..1000).for_each(|n| events.push(event(n)));
        let (_, mark) = events.batch();
        (1000..1050).for_each(|n| events.push(event(n)));
        events.confirm(mark);
        assert_eq!(events.batch().0[0].at_ms, 100);
    }

    #[test]
    fn what_hq_lacked_before_a_restart_waits_for_it_again_and_no_more() {
        let noted: Vec<Event> = (0..40).map(event).collect();
        let events = Events::recalled(noted.clone(), Some(&event(36)));
        let (batch, _) = events.batch();
        assert_eq!(batch.iter().map(|event| event.at_ms).collect::<Vec<_>>(), [37, 38, 39]);
        assert_eq!(events.shown().len(), SHOWN_MAX);
        // A mark that is lost or of a line that is gone: HQ knows what it has.
        assert_eq!(Events::recalled(noted, Some(&event(99))).batch().0.len(), 40);
    }

    #[test]
    fn two_events_never_bear_the_same_time_in_a_row() {
        let mut events = Events::default();
        events.push(event(7));
        assert_eq!((events.apart(7), events.apart(6), events.apart(8)), (8, 6, 8));
    }
}
