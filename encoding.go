// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// hashKey makes a storage key of any text.
func hashKey(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// decodeMap decodes what Vault kept as a map back into the struct that it was made from, or a struct into such a map.
func decodeMap(from, to any) error {
	raw, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, to)
}
