//! The operator: watches objects, compiles them to a mesh, serves it as Envoy xDS v3, and writes their status.

pub mod xds;

pub mod model;
