//! Seccomp programs: a deny list compiled to a binary search.
//!
//! Installing a filter costs what its longest paths cost, because the kernel runs it once for every
//! system call to remember which ones it always allows. So ranges and a binary search, and argument
//! checks only at the leaves.

use std::{collections::BTreeMap, io};

/// One instruction of a classic BPF program.
pub use libc::sock_filter as Instruction;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Allow,
    /// It fails with this number.
    Errno(u16),
    /// The process is killed.
    Kill,
}

impl Verdict {
    const fn code(self) -> u32 {
        match self {
            Self::Allow => 0x7fff_0000,
            Self::Errno(number) => 0x0005_0000 | number as u32,
            Self::Kill => 0x8000_0000,
        }
    }
}

/// A test of the low 32 bits of an argument, which is all that the tested calls look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// Any of these bits is set.
    AnyBit(u32),
    /// It is one of these values.
    OneOf(&'static [u32]),
    /// It is none of these values.
    NoneOf(&'static [u32]),
}

/// What is decided about one system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The same for all arguments.
    Always(Verdict),
    /// `then` where the argument passes the test, allowed otherwise.
    When {
        /// Which argument, from 0.
        argument: u8,
        /// The test.
        test: Test,
        /// What becomes of the call then.
        then: Verdict,
    },
    /// `then` where, in any of the cases, each named argument has exactly this value; allowed
    /// otherwise.
    Exactly {
        /// Which arguments, from 0, and their values.
        cases: &'static [&'static [(u8, u32)]],
        /// What becomes of the call then.
        then: Verdict,
    },
}

/// A compiled program.
#[derive(Debug, Clone)]
pub struct Program(Vec<Instruction>);

const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

/// The architecture that programs are made for, as the kernel's audit code names it.
#[cfg(target_arch = "x86_64")]
pub const ARCH: u32 = 0xc000_003e;
/// The architecture that programs are made for, as the kernel's audit code names it.
#[cfg(target_arch = "aarch64")]
pub const ARCH: u32 = 0xc000_00b7;

/// The first number of the x32 calls, which reach the same kernel functions by another road.
const X32: u32 = 0x4000_0000;

const fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction { code, jt, jf, k }
}

impl Program {
    /// Compiles a deny list. Calls without a rule are allowed below `first_unknown` and fail with
    /// `ENOSYS` from there on, so that a libc falls back to what is known; other architectures and
    /// x32 are killed.
    ///
    /// # Panics
    /// When the rules need a jump of more than 255 instructions, which a test would show.
    pub fn deny(rules: &BTreeMap<u32, Rule>, first_unknown: u32) -> Self {
        let enosys = Rule::Always(Verdict::Errno(38));
        // Where a rule begins to hold. A number's rule ends at the next number, unless that one
        // says so itself.
        let mut starts = BTreeMap::from([(0, Rule::Always(Verdict::Allow))]);
        for (&number, &rule) in rules.range(..first_unknown) {
            starts.insert(number, rule);
            starts.insert(number + 1, Rule::Always(Verdict::Allow));
        }
        starts.insert(first_unknown, enosys);
        starts.insert(X32, Rule::Always(Verdict::Kill));
        let mut ranges: Vec<(u32, Rule)> = starts.into_iter().collect();
        ranges.dedup_by_key(|(_, rule)| *rule);
        let mut program = vec![
            instruction(LOAD, 0, 0, OFFSET_ARCH),
            instruction(JUMP_EQUAL, 1, 0, ARCH),
            instruction(RETURN, 0, 0, Verdict::Kill.code()),
            instruction(LOAD, 0, 0, OFFSET_NUMBER),
        ];
        search(&ranges, &mut program);
        Self(program)
    }

    /// The instructions, for a test that interprets them.
    pub fn instructions(&self) -> &[Instruction] {
        &self.0
    }

    /// Installs it for this process and all it starts. Needs `no_new_privs`.
    pub fn install(&self) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: u16::try_from(self.0.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
            filter: self.0.as_ptr().cast_mut(),
        };
        const SET_MODE_FILTER: libc::c_uint = 1;
        // SAFETY: the kernel copies `len` instructions and writes nothing; both outlive the call.
        let done = unsafe {
            libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, 0 as libc::c_uint, &raw const program)
        };
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn search(ranges: &[(u32, Rule)], out: &mut Vec<Instruction>) {
    let [(_, rule)] = ranges else {
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let at = out.len();
        out.push(instruction(JUMP_AT_LEAST, 0, 0, high[0].0));
        search(low, out);
        out[at].jt = distance(out.len() - at - 1);
        search(high, out);
        return;
    };
    leaf(rule, out);
}

fn leaf(rule: &Rule, out: &mut Vec<Instruction>) {
    let (argument, test, then) = match *rule {
        Rule::Always(verdict) => return out.push(instruction(RETURN, 0, 0, verdict.code())),
        Rule::When { argument, test, then } => (argument, test, then),
        Rule::Exactly { cases, then } => {
            for arguments in cases {
                for (at, (argument, value)) in arguments.iter().enumerate() {
                    out.push(load_argument(*argument));
                    // Past this case's tests that are left and its refusal.
                    let rest = 2 * (arguments.len() - at - 1) + 1;
                    out.push(instruction(JUMP_EQUAL, 0, distance(rest), *value));
                }
                out.push(instruction(RETURN, 0, 0, then.code()));
            }
            return out.push(instruction(RETURN, 0, 0, Verdict::Allow.code()));
        }
    };
    out.push(load_argument(argument));
    let (values, hit, miss) = match test {
        Test::AnyBit(bits) => {
            out.push(instruction(JUMP_ANY_BIT, 0, 1, bits));
            out.push(instruction(RETURN, 0, 0, then.code()));
            return out.push(instruction(RETURN, 0, 0, Verdict::Allow.code()));
        }
        Test::OneOf(values) => (values, then, Verdict::Allow),
        Test::NoneOf(values) => (values, Verdict::Allow, then),
    };
    for (at, value) in values.iter().enumerate() {
        out.push(instruction(JUMP_EQUAL, distance(values.len() - at), 0, *value));
    }
    out.push(instruction(RETURN, 0, 0, miss.code()));
    out.push(instruction(RETURN, 0, 0, hit.code()));
}

fn load_argument(argument: u8) -> Instruction {
    instruction(LOAD, 0, 0, OFFSET_ARGUMENTS + 8 * u32::from(argument))
}

fn distance(instructions: usize) -> u8 {
    u8::try_from(instructions).expect("a jump of at most 255 instructions")
}
