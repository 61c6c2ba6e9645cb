//! xDS: the mesh in the words of Envoy, and the server that pushes it.

pub mod snapshot;
mod name;
mod encode;
mod resource;
