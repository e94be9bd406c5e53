//! Who lives among the replicas, what each reports, and who owns what.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{GroupName, ReplicaId};
use crate::model::remote::Reach;

/// What a replica tells the others with each beat.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The groups of its configuration: those that it could own.
    pub groups: Vec<GroupName>,
    /// Groups it owns that cannot request another runner now.
    #[serde(default)]
    pub full: Vec<GroupName>,
    /// Groups it owns whose actor does not run, and why.
    #[serde(default)]
    pub stopped: BTreeMap<GroupName, String>,
    /// Whom the runners of groups that it owns serve, where GitHub says more than the configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reach: BTreeMap<GroupName, Reach>,
}

/// Who lives and who owns what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    /// The replicas that live, this one included, with their last reports.
    pub replicas: BTreeMap<ReplicaId, Report>,
    /// The owners of groups that have one; each is in `replicas`.
    pub owners: BTreeMap<GroupName, ReplicaId>,
}
