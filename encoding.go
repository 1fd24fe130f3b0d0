// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// hashKey returns the SHA-256 of text in hex: a storage key for names that may contain any character.
func hashKey(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// decodeMap converts, by way of JSON, a map that Vault stored into the struct that it was made from, or a struct into such a
// map.
func decodeMap(from, to any) error {
	raw, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, to)
}
