//! The HTTP surface over real loopback connections, with the memory store and the mock provider.

mod browsers;
mod files;
mod limits;
mod malformed;
mod shapes;
mod sockets;
mod streams;
mod world;
