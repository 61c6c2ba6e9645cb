//! The codec as a whole: the drivers back to back on real sockets, the corpus, hyper as a second opinion.

mod corpus;
mod drivers;
mod harness;
mod hyper;
mod random;
mod uploads;
