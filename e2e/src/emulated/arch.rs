//! The architectures of emulated machines.

/// An architecture, as Debian names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// x86-64: the architecture of the machines on which the tests run.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Arch {
    /// The name in Debian.
    pub fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The emulator, and the arguments that select a machine.
    pub fn qemu(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Amd64 => ("qemu-system-x86_64", &[]),
            Self::Arm64 => ("qemu-system-aarch64", &["-machine", "virt", "-cpu", "cortex-a72"]),
        }
    }

    /// The package of the emulator.
    pub fn package(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86",
            Self::Arm64 => "qemu-system-arm",
        }
    }

    /// The serial line that qemu's `-serial` is connected to.
    pub fn console(self) -> &'static str {
        match self {
            Self::Amd64 => "ttyS0",
            Self::Arm64 => "ttyAMA0",
        }
    }
}
