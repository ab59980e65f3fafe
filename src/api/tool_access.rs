//! Which tools a request may speak of: policies are asked about each before a prompt has it.
//!
//! Main type: [`ToolAccess`]. Knows nothing of what tools do: they are the client's.

use std::collections::BTreeSet;

use super::{access::Caller, error::ApiError, state::AppState};
use crate::{
    governance::{
        Governance,
        policy::{Action, Resource},
    },
    prompt::{ChatRequest, Message},
};

/// The tools that a caller may use. The default is all, as where there are no identities.
#[derive(Clone, Default)]
pub(super) struct ToolAccess {
    asked: Option<(Governance, Caller)>,
}

impl ToolAccess {
    /// Those of a request's caller.
    pub(super) fn of(state: &AppState, caller: &Caller) -> Self {
        let asked = caller.principal.is_some().then(|| (state.governance().clone(), caller.clone()));
        Self { asked }
    }

    /// Fails if there is a tool that its caller may not use, among those that may be called and those that were.
    pub(super) fn check(&self, chat: &ChatRequest) -> Result<(), ApiError> {
        let Some((governance, caller)) = &self.asked else { return Ok(()) };
        let declared = chat.tools.iter().map(|tool| tool.name.as_str());
        let called = chat.messages.iter().flat_map(|message| match message {
            Message::Assistant { tool_calls, .. } => tool_calls.as_slice(),
            Message::System { .. } | Message::User { .. } | Message::Tool { .. } => &[],
        });
        let names: BTreeSet<&str> = declared.chain(called.map(|call| call.name.as_str())).collect();
        names.into_iter().try_for_each(|name| caller.check(governance, Action::UseTool, Resource::Tool(name)))
    }
}
