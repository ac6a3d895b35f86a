"""Stands between a caller outside a host's pid namespace and the command inside it.

Only a child can be born into another pid namespace, so somebody has to stay outside and wait. `nsenter` does, and dies of the
first Ctrl-C while the command still tidies up: its caller then reads a wrong exit status, or believes that all is over. This one
hands every signal on and ends as the command ended; when it is killed itself, the command is, too.
A host that is a whole tree of its own lacks this interpreter: with ``--into PID`` the program enters it by itself, before the
child is born.
What may live here: a program of its own, run by path in an interpreter without site-packages. It imports nothing of Segue.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import warnings  # noqa: F401  # execvp imports it: in another tree there would be none

_FORWARDED = {signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
_SI_KERNEL = 0x80  # asm-generic/siginfo.h: it came from the terminal, which has told the command as well, but for a hang-up,
# which it tells the leader of a session alone (drivers/tty/tty_jobctrl.c, tty_signal_session_leader)
_NAMESPACES = ("pid", "net", "uts", "ipc", "cgroup", "mnt")  # mnt last: /proc is this machine's until then
_DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")


def main(argv: list[str]) -> int:
    """Run a command as a child and be its stand-in.

    Returns:
        Its exit status. When it died of a signal, so does this process.
    """
    if argv[0] == "--into":
        _enter(int(argv[1]))
        argv = argv[2:]
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_FORWARDED, signal.SIGCHLD})
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and what is ignored stays so
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_FORWARDED, signal.SIGCHLD})
        os.execvp(_DIES_WITH_US[0], [*_DIES_WITH_US, *argv])  # noqa: S606  # an argv: no shell sees it
    status = _wait(child)
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    _die_of(os.WTERMSIG(status))
    return 128 + os.WTERMSIG(status)


def _enter(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12
    files = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in _NAMESPACES]
    for fd in files:
        if libc.setns(fd, 0):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def _wait(child: int) -> int:
    while True:
        seen = signal.sigwaitinfo({*_FORWARDED, signal.SIGCHLD})
        if seen.si_signo != signal.SIGCHLD:
            if seen.si_code != _SI_KERNEL or seen.si_signo == signal.SIGHUP:
                os.kill(child, seen.si_signo)
            continue
        pid, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
        if pid and os.WIFSTOPPED(status):
            os.kill(os.getpid(), signal.SIGSTOP)  # whoever waits for us sees it stopped, and wakes us
            os.kill(child, signal.SIGCONT)
        elif pid:
            return status


def _die_of(number: int) -> None:
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
