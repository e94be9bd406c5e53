//! What goes wrong on purpose: rules that can be added and cleared while the simulated GitHub runs.

use std::time::Duration;

use super::hooks::Action;
use super::log::Operation;

/// How an API call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with this status; nothing is done.
    Status(u16),
    /// It is answered 429 with `retry-after`, in whole seconds; nothing is done.
    RateLimited(Duration),
    /// It is answered 403 with `retry-after`, in whole seconds, as a secondary limit; nothing is done.
    SecondaryLimit(Duration),
    /// It is answered 403 with nothing left of its limit until so much later, in whole seconds; nothing is done.
    UsedUp(Duration),
    /// It is answered as ever, so much later.
    Delay(Duration),
    /// The connection ends without an answer; nothing is done.
    DropConnection,
    /// It is done, but the connection ends without an answer.
    LoseAnswer,
    /// Runners are said to be busy, or not to be, whatever they do; DELETE is not hit.
    Busy(bool),
    /// From its second page on a listing is as if so many earlier entries had gone meanwhile: some are never shown.
    Gone(usize),
    /// From its second page on a listing is as if so many entries had come before it meanwhile: some are shown twice.
    Come(usize),
}

/// How a webhook goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookFault {
    /// It is never sent; the history says that it failed.
    Drop,
    /// It is never sent, and the history knows nothing of it.
    Forget,
    /// It is sent twice, one after the other, with the same GUID.
    Duplicate,
    /// It is sent so much later, and the job's next ones do not wait for it: they overtake.
    Late(Duration),
}

/// How often a rule applies before it is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// To the next so many calls.
    Next(u32),
    /// Until the faults are cleared.
    Forever,
}

impl Times {
    fn spend(&mut self) -> bool {
        match self {
            Self::Forever => true,
            Self::Next(0) => false,
            Self::Next(left) => {
                *left -= 1;
                true
            }
        }
    }
}

/// The rules in force. For one call the first rule that fits and is not used up decides.
#[derive(Debug, Default)]
pub(super) struct Faults {
    calls: Vec<(Option<Operation>, Fault, Times)>,
    hooks: Vec<(Option<Action>, HookFault, Times)>,
}

impl Faults {
    pub(super) fn add(&mut self, operation: Option<Operation>, fault: Fault, times: Times) {
        self.calls.push((operation, fault, times));
    }

    pub(super) fn add_hook(&mut self, action: Option<Action>, fault: HookFault, times: Times) {
        self.hooks.push((action, fault, times));
    }

    pub(super) fn for_call(&mut self, operation: Operation) -> Option<Fault> {
        next(&mut self.calls, operation)
    }

    pub(super) fn for_hook(&mut self, action: Action) -> Option<HookFault> {
        next(&mut self.hooks, action)
    }
}

fn next<W: Copy + PartialEq, F: Copy>(rules: &mut Vec<(Option<W>, F, Times)>, what: W) -> Option<F> {
    rules.retain(|(_, _, times)| *times != Times::Next(0));
    let rule = rules.iter_mut().find(|(only, _, _)| only.is_none_or(|only| only == what))?;
    rule.2.spend().then_some(rule.1)
}
