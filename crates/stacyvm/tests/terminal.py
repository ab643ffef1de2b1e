"""A person in front of a terminal: types, resizes, interrupts, and gets the terminal back."""

import fcntl
import os
import pty
import signal
import struct
import sys
import termios
import time

binary, sandbox, data = sys.argv[1:]
LIMIT = 30


class Terminal:
    def __init__(self, *args):
        self.master, slave = pty.openpty()
        self.resize(30, 90)
        self.before = termios.tcgetattr(self.master)
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.master)
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            for number in range(3):
                os.dup2(slave, number)
            os.execv(binary, [binary, *args])
        # The slave stays open here, so that the terminal outlives the program.
        self.slave = slave
        self.seen = b""

    def resize(self, rows, cols):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, text):
        os.write(self.master, text)

    def until(self, text):
        deadline = time.monotonic() + LIMIT
        os.set_blocking(self.master, False)
        while text not in self.seen:
            assert time.monotonic() < deadline, f"waited for {text!r}, saw {self.seen!r}"
            try:
                self.seen += os.read(self.master, 4096)
            except BlockingIOError:
                time.sleep(0.01)
        self.seen = self.seen.split(text, 1)[1]

    def ends_with(self, code):
        deadline = time.monotonic() + LIMIT
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            assert time.monotonic() < deadline, f"it does not end; saw {self.seen!r}"
            time.sleep(0.01)
        assert os.waitstatus_to_exitcode(status) == code, (os.waitstatus_to_exitcode(status), code)
        assert termios.tcgetattr(self.master) == self.before, "the terminal was not given back"


def talk(*args):
    terminal = Terminal(*args)
    terminal.type(b"PS1='ready> '; stty -echo\r")
    terminal.until(b"ready> ")
    terminal.type(b"tty; stty size; echo $TERM\r")
    terminal.until(b"/dev/pts/")
    terminal.until(b"30 90")
    terminal.until(b"xterm")
    terminal.resize(41, 123)
    terminal.type(b"until [ \"$(stty size)\" = '41 123' ]; do sleep 0.05; done; echo re''sized\r")
    terminal.until(b"resized")
    # In raw mode Ctrl-C is the command's, and the session goes on.
    terminal.type(b"echo sl''eeping; sleep 100\r")
    terminal.until(b"sleeping")
    time.sleep(0.2)
    terminal.type(b"\x03")
    terminal.until(b"ready> ")
    terminal.type(b"printf '\\377\\200' | od -An -tx1; printf '\\377\\200'; echo; exit 5\r")
    terminal.until(b"ff 80")
    terminal.until(b"\xff\x80")
    terminal.ends_with(5)


exec_args = ("exec", "-it", sandbox, "--", "sh")
talk(*exec_args)
talk("run", "--data-dir", data, "-it", "--", "sh")

# Told to end from outside, twice: at once, and the terminal is as it was.
terminal = Terminal(*exec_args)
terminal.type(b"stty -echo; echo re''ady\r")
terminal.until(b"ready")
os.kill(terminal.pid, signal.SIGTERM)
time.sleep(0.2)
os.kill(terminal.pid, signal.SIGTERM)
terminal.ends_with(143)
