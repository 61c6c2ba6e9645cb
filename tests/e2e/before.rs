//! Tests that need no installation, or run an operator of their own on the node. `make e2e` runs them first:
//! two operators would write the same status.

mod capture;
mod check;
mod crds;
mod identity;
mod ha;
mod inject;
mod policies;
mod redirect;
mod rollout;
mod zones;
