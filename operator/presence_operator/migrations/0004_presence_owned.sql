-- The operator's own memory of what it mirrored: one row for each claim that it holds to be open. A row of
-- presence_claims is the operator's when a row here with has_row = 1 has its key and its claimed_at; all other rows
-- of presence_claims belong to somebody else and are never touched.
CREATE TABLE IF NOT EXISTS presence_owned (
  claim_uid      VARCHAR(64)  NOT NULL,
  board          VARCHAR(63)  NOT NULL,
  session_id     VARCHAR(128) NOT NULL,
  resource_label VARCHAR(255) NOT NULL,
  claimed_at     DATETIME(3)  NOT NULL,
  phase          VARCHAR(16)  NOT NULL,
  ttl_seconds    INT          NOT NULL,
  purpose        TEXT         NOT NULL,
  `user`         VARCHAR(64)  NOT NULL,
  host           VARCHAR(128) NOT NULL,
  agent          VARCHAR(64)  NOT NULL,
  has_row        TINYINT      NOT NULL,
  PRIMARY KEY (claim_uid),
  INDEX idx_owned_row (session_id, resource_label)
)
/*M!100200 DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin */
/*!80017 DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin */;
