//! How the endpoints of a Service port are called: balance, connections, retry budget, ejection.

use fairlead_crds::{
    ConnectionPool, CountedError, Ejection, LoadBalancerType, Mode, OutlierDetection, Recovery,
    RetryConstraint,
};

use super::attach::Attached;
use super::service::Protocol;

/// How the endpoints of a Service port are called, whichever route leads to them.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// What is spoken to them.
    pub protocol: Protocol,
    /// How one is chosen.
    pub load_balancer: LoadBalancerType,
    /// Limits and times of connections.
    pub pool: ConnectionPool,
    /// How many retries they may get.
    pub retries: RetryConstraint,
    /// When one is no longer called; none: never.
    pub outlier: Option<Outlier>,
}

/// An OutlierDetection that is not disabled.
#[derive(Debug, Clone, PartialEq)]
pub struct Outlier {
    /// Only counts.
    pub shadow: bool,
    /// Errors in a row.
    pub consecutive_errors: u32,
    /// What counts.
    pub errors: Vec<CountedError>,
    /// How long, how many.
    pub ejection: Ejection,
    /// How one comes back.
    pub recovery: Recovery,
}

impl Cluster {
    /// The settings of `port`, the defaults where no object sets any.
    pub fn compile(port: &str, protocol: Protocol, attached: &Attached<'_>) -> Self {
        let balancer =
            attached.load_balancers.get(port).and_then(|claim| claim.object.spec.load_balancer.as_ref());
        let pool =
            attached.connection_pools.get(port).and_then(|claim| claim.object.spec.connection_pool.clone());
        let retries = attached.retry_constraints.get(port);
        let retries = retries.and_then(|claim| claim.object.spec.retry_constraint.clone());
        Self {
            protocol,
            load_balancer: balancer.map(|balancer| balancer.kind).unwrap_or_default(),
            pool: pool.unwrap_or_default(),
            retries: retries.unwrap_or_default(),
            outlier: attached.outliers.get(port).map(|claim| Outlier::compile(claim.object)),
        }
    }
}

impl Outlier {
    fn compile(policy: &OutlierDetection) -> Self {
        let spec = &policy.spec;
        Self {
            shadow: spec.mode == Mode::Shadow,
            consecutive_errors: spec.consecutive_errors,
            errors: spec.errors.clone(),
            ejection: spec.ejection.clone(),
            recovery: spec.recovery.clone(),
        }
    }
}
