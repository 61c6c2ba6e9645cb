//! The pure half of the operator: objects in, what they come to out.
//!
//! [`compile`] is a function of the objects as they are now, and of nothing else: no clock, no client, no
//! history. A restart and another replica decide the same.
//!
//! ```text
//! Inputs --compile--> Mesh + Vec<Problem>          all objects, when configuration changed
//! Mesh --with_endpoints--> Mesh                    one Service, when its endpoints changed
//! ```

mod compile;
mod attach;
mod matching;
pub mod nearest;
pub mod precedence;
pub mod endpoints;
pub mod grant;
pub mod headers;
pub mod inputs;
pub mod limits;
pub mod mesh;
pub mod object;
pub mod policy;
pub mod problem;
pub mod route;
pub mod service;
pub mod shards;
pub mod size;
pub mod slice;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

pub use grant::ReferenceGrant;
pub use inputs::{Inputs, Namespace, Pod, PodSidecar};
pub use mesh::Mesh;
pub use object::{Kind, ObjectKey, ObjectRef};
pub use problem::{Condition, Problem, Severity};
pub use service::Service;
pub use slice::EndpointSlice;

/// What the objects come to, and what is wrong with them. Problems are sorted.
pub fn compile(inputs: &Inputs) -> (Mesh, Vec<Problem>) {
    compile::compile(inputs)
}

/// The same, sharing with `previous` every part that is equal, so that what changed is found by comparing
/// pointers.
pub fn recompile(inputs: &Inputs, previous: &Mesh) -> (Mesh, Vec<Problem>) {
    let (mut mesh, problems) = compile::compile(inputs);
    compile::share(&mut mesh, previous);
    (mesh, problems)
}

impl Mesh {
    /// This mesh with the endpoints of these Services as they are in `inputs` now; nothing else is looked at.
    /// For a change of EndpointSlices alone the result equals [`compile`]'s.
    pub fn with_endpoints<'a>(
        &self,
        inputs: &Inputs,
        services: impl IntoIterator<Item = &'a ObjectKey>,
    ) -> Self {
        let mut mesh = self.clone();
        for service in services {
            compile::replace_endpoints(&mut mesh, inputs, service);
        }
        mesh
    }
}
