-- Which operator writes a board. Each one enters itself when it connects, and changes turn in every transaction: an
-- operator that was replaced while it was paused finds another name here, or a conflict, and writes nothing.
CREATE TABLE IF NOT EXISTS presence_boards (
  board  VARCHAR(63) NOT NULL,
  writer VARCHAR(64) NOT NULL,
  turn   BIGINT      NOT NULL,
  since  DATETIME(3) NOT NULL,
  PRIMARY KEY (board)
)
/*M!100200 DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin */
/*!80017 DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin */;
