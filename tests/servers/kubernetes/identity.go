package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// identity is what a client needs to trust the server and to be its admin.
// Its files are in dir/pki, the admin's kubeconfig is dir/kubeconfig.
type identity struct {
	dir   string
	ca    *x509.Certificate
	token string
}

func (id *identity) path(name string) string { return filepath.Join(id.dir, "pki", name) }

func (id *identity) tokenFile() string { return id.path("tokens.csv") }

// makeIdentity takes the identity that is in the folder if it is to be kept, and
// else, or if there is none yet, makes a new one.
func makeIdentity(dir string, port int, keep bool) (*identity, error) {
	if keep {
		if _, err := os.Stat(filepath.Join(dir, "kubeconfig")); err == nil {
			return readIdentity(dir)
		}
	}
	return newIdentity(dir, port)
}

// readIdentity finds what newIdentity wrote.
func readIdentity(dir string) (*identity, error) {
	id := &identity{dir: dir}
	line, err := os.ReadFile(id.tokenFile())
	if err != nil {
		return nil, err
	}
	id.token, _, _ = strings.Cut(string(line), ",")
	text, err := os.ReadFile(id.path("ca.crt"))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("ca.crt is no certificate")
	}
	id.ca, err = x509.ParseCertificate(block.Bytes)
	return id, err
}

// newIdentity makes fresh keys and a fresh token at each start: a test's data
// folder is used once.
func newIdentity(dir string, port int) (*identity, error) {
	secret := make([]byte, 24)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	id := &identity{dir: dir, token: hex.EncodeToString(secret)}
	if err := os.MkdirAll(filepath.Join(dir, "pki"), 0o700); err != nil {
		return nil, err
	}
	line := fmt.Sprintf("%s,admin,admin,\"system:masters\"\n", id.token)
	if err := os.WriteFile(id.tokenFile(), []byte(line), 0o600); err != nil {
		return nil, err
	}
	caDER, err := id.certificates()
	if err != nil {
		return nil, err
	}
	if err := id.serviceAccountKeys(); err != nil {
		return nil, err
	}
	return id, id.writeKubeconfig(port, caDER)
}

// certificates writes the authority and the server's certificate.
func (id *identity) certificates() ([]byte, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	authority, err := template("local-ca")
	if err != nil {
		return nil, err
	}
	authority.IsCA = true
	authority.BasicConstraintsValid = true
	authority.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	caDER, err := x509.CreateCertificate(rand.Reader, authority, authority, caKey.Public(), caKey)
	if err != nil {
		return nil, err
	}
	if id.ca, err = x509.ParseCertificate(caDER); err != nil {
		return nil, err
	}

	serving, err := template("kube-apiserver")
	if err != nil {
		return nil, err
	}
	serving.KeyUsage = x509.KeyUsageDigitalSignature
	serving.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	serving.DNSNames = []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"}
	serving.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, serving, id.ca, key.Public(), caKey)
	if err != nil {
		return nil, err
	}
	if err := writePEM(id.path("ca.crt"), "CERTIFICATE", caDER); err != nil {
		return nil, err
	}
	if err := writePEM(id.path("apiserver.crt"), "CERTIFICATE", der); err != nil {
		return nil, err
	}
	return caDER, writeKey(id.path("apiserver.key"), key)
}

// serviceAccountKeys writes what signs and checks the tokens of
// ServiceAccounts; clusters usually do so with RS256.
func (id *identity) serviceAccountKeys() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	if err := writeKey(id.path("sa.key"), key); err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return writePEM(id.path("sa.pub"), "PUBLIC KEY", public)
}

func template(commonName string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: commonName},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.AddDate(1, 0, 0),
	}, nil
}

func writeKey(path string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(path, "PRIVATE KEY", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

func (id *identity) writeKubeconfig(port int, caDER []byte) error {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: local
  cluster:
    server: https://127.0.0.1:%d
    certificate-authority-data: %s
users:
- name: admin
  user:
    token: %s
contexts:
- name: local
  context:
    cluster: local
    user: admin
    namespace: default
current-context: local
`, port, base64.StdEncoding.EncodeToString(ca), id.token)
	return os.WriteFile(filepath.Join(id.dir, "kubeconfig"), []byte(text), 0o600)
}
