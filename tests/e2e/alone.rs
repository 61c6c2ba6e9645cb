//! Tests of what touches the whole cluster: they run last, one by one.

mod docs;
mod install;
