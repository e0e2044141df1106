"""placeholder"""

from sync.agent.flists.watchers import InfoWatcher


class Housekeeper:
    remark = ""

    def __init__(self, *a):
        pass

    def close(self):
        pass

    def consider(self, following, master: InfoWatcher, slave: InfoWatcher):
        pass

    def check(self):
        pass

    def details(self):
        return {}
