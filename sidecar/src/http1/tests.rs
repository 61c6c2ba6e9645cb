//! The codec as a whole: the drivers back to back on real sockets, the corpus, hyper as a second opinion.

mod drivers;
mod harness;
