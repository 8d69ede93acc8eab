-- People and groups of issuers outside, what an application may reach at most,
-- and what is counted over all replicas. Text and types as in 0001.

-- +goose Up

-- Whom an issuer outside signs in: by which of its names they are known. '': here.
ALTER TABLE users ADD COLUMN issuer  ${TEXT} NOT NULL DEFAULT '';
ALTER TABLE users ADD COLUMN subject ${TEXT} NOT NULL DEFAULT '';
CREATE UNIQUE INDEX users_subject ON users (issuer, subject) WHERE issuer <> '';

-- The group of an issuer outside whose members are in this one. '': none.
ALTER TABLE user_groups ADD COLUMN issuer   ${TEXT} NOT NULL DEFAULT '';
ALTER TABLE user_groups ADD COLUMN external ${TEXT} NOT NULL DEFAULT '';
CREATE UNIQUE INDEX user_groups_external ON user_groups (issuer, external) WHERE issuer <> '';

ALTER TABLE apps ADD COLUMN reach ${TEXT}; -- JSON; NULL: as the settings say

-- What one caller asked for lately, for the limits of reach.
CREATE INDEX actions_caller ON actions (requestor_id, created, machine_id);

-- Wrong tries to sign in, by account and network, and by network.
CREATE TABLE sign_in_tries (
    name  ${TEXT} NOT NULL PRIMARY KEY,
    wrong BIGINT  NOT NULL,
    until BIGINT, -- no try before
    last  BIGINT  NOT NULL
);
CREATE INDEX sign_in_tries_last ON sign_in_tries (last);

-- Calls per application and route, counted over all replicas. Losing it in a
-- crash lets callers begin their hour anew, and costs nothing else.
CREATE ${UNLOGGED} TABLE call_counts (
    name        ${TEXT} NOT NULL PRIMARY KEY,
    minute      BIGINT  NOT NULL, -- when the window began
    minute_used BIGINT  NOT NULL,
    hour        BIGINT  NOT NULL,
    hour_used   BIGINT  NOT NULL
);
CREATE INDEX call_counts_hour ON call_counts (hour);

-- +goose Down

DROP TABLE call_counts;
DROP TABLE sign_in_tries;
DROP INDEX actions_caller;
ALTER TABLE apps DROP COLUMN reach;
DROP INDEX user_groups_external;
ALTER TABLE user_groups DROP COLUMN external;
ALTER TABLE user_groups DROP COLUMN issuer;
DROP INDEX users_subject;
ALTER TABLE users DROP COLUMN subject;
ALTER TABLE users DROP COLUMN issuer;
