"""The agent: the sync engines that run in containers on the mirror host. No Pulumi here."""
