// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
)

// checkCertificates returns an error, for a fieldError, unless the text consists of certificates, one at least. The config shows the text to
// its readers, so nothing else may be in it, least of all a private key in whatever form.
func checkCertificates(text string) error {
	const advice = "send only PEM blocks that begin with -----BEGIN CERTIFICATE-----, and comments in lines that begin with #"
	switch certificates, only := certificatesIn(text); {
	case certificates == "":
		return fmt.Errorf("holds no certificate; %s", advice)
	case !only:
		return fmt.Errorf("holds something that is not a certificate; %s", advice)
	}
	return nil
}

// certificatesIn returns the certificates of the text in PEM, and whether there is nothing else in it but empty lines and comments.
func certificatesIn(text string) (certificates string, only bool) {
	only = true
	var found, block strings.Builder
	inside := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \t\r\n")
		switch {
		case inside:
			block.WriteString(line + "\n")
			if line != "-----END CERTIFICATE-----" {
				continue
			}
			inside = false
			decoded, _ := pem.Decode([]byte(block.String()))
			if decoded == nil || len(decoded.Headers) > 0 {
				only = false
				continue
			}
			if _, err := x509.ParseCertificate(decoded.Bytes); err != nil {
				only = false
				continue
			}
			found.Write(pem.EncodeToMemory(decoded))
		case line == "-----BEGIN CERTIFICATE-----":
			inside = true
			block.Reset()
			block.WriteString(line + "\n")
		case line != "" && !strings.HasPrefix(line, "#"):
			only = false
		}
	}
	return found.String(), only && !inside
}
