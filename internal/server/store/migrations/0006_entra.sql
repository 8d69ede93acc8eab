-- The id that a device has in Entra, by which clients name it in place of its own.

-- +goose Up

ALTER TABLE devices ADD COLUMN entra_id ${TEXT} NOT NULL DEFAULT '';
CREATE UNIQUE INDEX devices_entra ON devices (lower(nullif(entra_id, ''))) WHERE revoked IS NULL;

-- +goose Down

DROP INDEX devices_entra;
ALTER TABLE devices DROP COLUMN entra_id;
