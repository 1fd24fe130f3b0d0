// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
)

// checkCertificates returns an error, for a fieldError, unless the PEM blocks of the text are certificates, one at least. The config
// shows the text to its readers, so nothing else may be in it, least of all a private key.
func checkCertificates(text string) error {
	const advice = "send only PEM blocks that begin with -----BEGIN CERTIFICATE-----"
	found := 0
	for rest := []byte(text); ; found++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("holds a block that is not a certificate; %s", advice)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("holds a certificate that can't be read; %s", advice)
		}
	}
	switch {
	case found == 0:
		return fmt.Errorf("holds no certificate; %s", advice)
	case strings.Count(text, "-----BEGIN ") != found:
		return fmt.Errorf("holds a block that can't be read; %s", advice)
	}
	return nil
}

// certificatesIn returns the text, or only its certificates where checkCertificates would refuse it.
func certificatesIn(text string) string {
	if text == "" || checkCertificates(text) == nil {
		return text
	}
	var certificates strings.Builder
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return certificates.String()
		}
		if block.Type == "CERTIFICATE" {
			certificates.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
		}
	}
}
