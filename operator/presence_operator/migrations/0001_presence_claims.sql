-- Who touches which resource right now. Older tools read and write this table too, so its eight columns, its key and
-- its two indexes never change; a table that is already there is used as it is. The last lines make every server
-- compare labels and session ids byte by byte: the first speaks to MariaDB, the second to MySQL and Dolt (which reads
-- both; the last one counts).
CREATE TABLE IF NOT EXISTS presence_claims (
  session_id     VARCHAR(128) NOT NULL,
  resource_label VARCHAR(255) NOT NULL,
  purpose        TEXT         NOT NULL,
  claimed_at     DATETIME(3)  NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
  expires_at     DATETIME(3)  NOT NULL,
  host           VARCHAR(128) NOT NULL,
  `user`         VARCHAR(64)  NOT NULL,
  agent_name     VARCHAR(64)  DEFAULT 'claude-code',
  PRIMARY KEY (session_id, resource_label),
  INDEX idx_resource (resource_label),
  INDEX idx_expires (expires_at)
)
/*M!100200 DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin */
/*!80017 DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin */;
