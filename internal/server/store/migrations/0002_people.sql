-- People, their groups and roles, device groups, and what the token service has
-- to remember. Text and types as in 0001.

-- +goose Up

CREATE TABLE users (
    seq           ${SERIAL},
    id            ${TEXT}  NOT NULL UNIQUE, -- GUID: the oid of their tokens
    upn           ${TEXT}  NOT NULL UNIQUE, -- in lower case
    name          ${TEXT}  NOT NULL,
    password      ${TEXT}  NOT NULL, -- argon2id with its parameters, or ''
    totp          ${BLOB}, -- the secret of the second factor
    totp_step     BIGINT   NOT NULL, -- the last time step that was used: a code is good once
    disabled      BOOLEAN  NOT NULL,
    created       BIGINT   NOT NULL,
    since         BIGINT   NOT NULL -- when password or second factor were changed: older sign-ins end
);

CREATE TABLE user_groups (
    seq     ${SERIAL},
    name    ${TEXT} NOT NULL,
    folded  ${TEXT} NOT NULL UNIQUE, -- name without regard to case
    created BIGINT  NOT NULL
);

CREATE TABLE group_members (
    user_group BIGINT  NOT NULL REFERENCES user_groups (seq),
    user_id    ${TEXT} NOT NULL REFERENCES users (id),
    PRIMARY KEY (user_group, user_id)
);
CREATE INDEX group_members_user ON group_members (user_id, user_group);

CREATE TABLE roles (
    seq     ${SERIAL},
    name    ${TEXT} NOT NULL,
    folded  ${TEXT} NOT NULL UNIQUE,
    rights  ${TEXT} NOT NULL, -- JSON
    created BIGINT  NOT NULL
);

CREATE TABLE role_groups (
    role       BIGINT NOT NULL REFERENCES roles (seq),
    user_group BIGINT NOT NULL REFERENCES user_groups (seq),
    PRIMARY KEY (role, user_group)
);
CREATE INDEX role_groups_group ON role_groups (user_group, role);

CREATE TABLE device_groups (
    seq         ${SERIAL},
    name        ${TEXT} NOT NULL,
    folded      ${TEXT} NOT NULL UNIQUE,
    description ${TEXT} NOT NULL,
    rank        BIGINT  NOT NULL, -- 1 is the highest
    rules       ${TEXT} NOT NULL  -- JSON
);

-- Who reaches a device group; without a row everybody with a role does. Group 0
-- are the devices in no group, so there is no reference.
CREATE TABLE device_group_access (
    device_group BIGINT NOT NULL,
    user_group   BIGINT NOT NULL REFERENCES user_groups (seq),
    PRIMARY KEY (device_group, user_group)
);
CREATE INDEX device_group_access_user_group ON device_group_access (user_group);

CREATE INDEX devices_group ON devices (group_id, seq);

-- What an application may do beyond its permissions of its own.
ALTER TABLE apps ADD COLUMN delegated     ${TEXT}; -- JSON; NULL: nothing
ALTER TABLE apps ADD COLUMN redirect_uris ${TEXT};
ALTER TABLE apps ADD COLUMN certificates  ${TEXT};
ALTER TABLE apps ADD COLUMN public        BOOLEAN;

-- What the token service gave out and must know again: codes, refresh tokens,
-- device codes, assertions that were used. Of what clients hold only the digest.
CREATE TABLE grants (
    digest  ${TEXT} NOT NULL PRIMARY KEY, -- hex SHA-256, of kind and value
    kind    ${TEXT} NOT NULL,
    family  ${TEXT} NOT NULL, -- what goes back to one sign-in: revoked as one
    data    ${TEXT} NOT NULL, -- JSON
    expires BIGINT  NOT NULL,
    used    BIGINT
);
CREATE INDEX grants_family  ON grants (family);
CREATE INDEX grants_expires ON grants (expires);

-- +goose Down

DROP TABLE grants;
ALTER TABLE apps DROP COLUMN public;
ALTER TABLE apps DROP COLUMN certificates;
ALTER TABLE apps DROP COLUMN redirect_uris;
ALTER TABLE apps DROP COLUMN delegated;
DROP INDEX devices_group;
DROP TABLE device_group_access;
DROP TABLE device_groups;
DROP TABLE role_groups;
DROP TABLE roles;
DROP TABLE group_members;
DROP TABLE user_groups;
DROP TABLE users;
