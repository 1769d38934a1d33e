# SPDX-License-Identifier: Apache-2.0
"""sushy-tools' Redfish service in front of one real QEMU machine.

Usage: emulator.py FOLDER PORT [HOOK]. FOLDER holds cert.pem and key.pem; the machine's process id is kept in
FOLDER/machine.pid while it is on. User "fence", password "switch:it". With HOOK the machine is someone
else's: `HOOK state` prints On or Off, `HOOK On` and `HOOK ForceOff` switch it.
"""

import os
import subprocess
import sys

import bcrypt
from sushy_tools.emulator import main as emulator
from sushy_tools.emulator.resources.systems import fakedriver

FOLDER, PORT = os.path.abspath(sys.argv[1]), int(sys.argv[2])
HOOK = sys.argv[3] if len(sys.argv) > 3 else None
PIDFILE = os.path.join(FOLDER, "machine.pid")
QEMU = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-m", "32", "-nodefaults", "-display", "none", "-S"]


class QemuDriver(fakedriver.FakeDriver):
    """Power is a process."""

    machine = None

    def get_power_state(self, identity):
        self._get(identity)
        if HOOK:
            return subprocess.check_output([HOOK, "state"], text=True).strip()
        running = self.machine is not None and self.machine.poll() is None
        return "On" if running else "Off"

    def set_power_state(self, identity, state):
        if HOOK:
            subprocess.check_call([HOOK, state])
            return
        on = self.get_power_state(identity) == "On"
        if state in ("On", "ForceOn") and not on:
            QemuDriver.machine = subprocess.Popen(QEMU)
            with open(PIDFILE, "w", encoding="ascii") as file:
                file.write(str(self.machine.pid))
        elif state == "ForceOff" and on:
            self.machine.kill()


def main():
    secret = bcrypt.hashpw(b"switch:it", bcrypt.gensalt(rounds=4)).decode()
    users = os.path.join(FOLDER, "users")
    with open(users, "w", encoding="ascii") as file:
        file.write(f"fence:{secret}\n")
    config = os.path.join(FOLDER, "emulator.conf")
    with open(config, "w", encoding="utf-8") as file:
        file.write(
            f"SUSHY_EMULATOR_AUTH_FILE = {users!r}\n"
            f"SUSHY_EMULATOR_STATE_DIR = {FOLDER!r}\n"
            f"SUSHY_EMULATOR_SSL_CERT = {FOLDER + '/cert.pem'!r}\n"
            f"SUSHY_EMULATOR_SSL_KEY = {FOLDER + '/key.pem'!r}\n"
        )
    fakedriver.FakeDriver = QemuDriver
    sys.argv = ["sushy-emulator", "--fake", "-i", "127.0.0.1", "-p", str(PORT), "--config", config]
    emulator.main()


if __name__ == "__main__":
    main()
