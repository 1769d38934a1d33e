-- Where VMs of a site are to run, beyond their homes.
ALTER TABLE sites ADD COLUMN drained TEXT;
ALTER TABLE sites ADD COLUMN rebalance BOOLEAN NOT NULL DEFAULT FALSE;
