// SPDX-License-Identifier: MPL-2.0

package client

import (
	"encoding"
	"encoding/json"
	"fmt"
	"io"
)

// redacted stands in for whatever must not be shown.
const redacted = "[redacted]"

// Secret is a string that redacts itself wherever it is printed, logged or encoded. Only [Secret.Reveal] returns it. An empty
// secret is shown as an empty string, so that presence can be distinguished from absence.
type Secret string

var (
	_ fmt.Formatter          = Secret("")
	_ fmt.GoStringer         = Secret("")
	_ json.Marshaler         = Secret("")
	_ encoding.TextMarshaler = Secret("")
)

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return string(s) }

// String returns "[redacted]", or "" for an empty secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString is [Secret.String].
func (s Secret) GoString() string { return s.String() }

// Format writes [Secret.String] whatever the verb and its flags.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalJSON encodes [Secret.String], so an encoded secret cannot be decoded again.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// MarshalText encodes [Secret.String].
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
