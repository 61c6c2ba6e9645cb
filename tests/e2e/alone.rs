//! Tests of what touches the whole cluster: they run last, one by one.

mod absence;
mod docs;
mod install;
mod rotation;
pub mod shop;
