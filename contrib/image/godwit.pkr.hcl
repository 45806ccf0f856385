# A Packer template: takes a Debian disk image, puts containerd, runc, CRIU and Godwit into it.
#
#   packer init contrib/image && packer build -var image=debian.qcow2 -var password=... contrib/image
packer {
  required_plugins {
    qemu = {
      source  = "github.com/hashicorp/qemu"
      version = ">= 1.0.9"
    }
  }
}

variable "image" {
  type        = string
  description = "Disk image to begin with: Debian with containerd 2.0 or later in its packages, root may log in over ssh."
}

variable "password" {
  type      = string
  sensitive = true
}

variable "bin" {
  type        = string
  default     = "bin"
  description = "Directory with Godwit's programs, of `make build`."
}

variable "accelerator" {
  type        = string
  default     = "kvm"
  description = "qemu's: tcg emulates the processor where there is no KVM, some ten times slower."
}

variable "qemu" {
  type        = string
  default     = "qemu-system-x86_64"
  description = "The emulator."
}

variable "qemuargs" {
  type        = list(list(string))
  default     = []
  description = "More of qemu's arguments, each with its value: a kernel, say, for an image without a boot loader."
}

variable "boot" {
  type        = string
  default     = "10m"
  description = "How long the machine may take until it can be logged into."
}

variable "output" {
  type        = string
  default     = "out/node-image"
  description = "Directory for the image, which must not be there."
}

source "qemu" "node" {
  iso_url      = var.image
  iso_checksum = "none"
  disk_image   = true
  qemu_binary  = var.qemu
  accelerator  = var.accelerator
  qemuargs     = var.qemuargs
  headless     = true
  cpus         = 2
  memory       = 2048
  format       = "qcow2"
  ssh_username = "root"
  ssh_password = var.password
  ssh_timeout  = var.boot
  # Every sshd has that; scp is in the client's package, which an image may lack.
  ssh_file_transfer_method = "sftp"
  shutdown_command         = "poweroff"
  output_directory         = var.output
}

build {
  sources = ["source.qemu.node"]

  provisioner "shell" {
    inline = [
      "apt-get update",
      "apt-get install -y --no-install-recommends containerd runc criu",
      "mkdir -p /tmp/godwit/bin /tmp/godwit/contrib",
    ]
  }
  provisioner "file" {
    source      = "${var.bin}/"
    destination = "/tmp/godwit/bin"
  }
  provisioner "file" {
    sources     = ["${path.root}", "${path.root}/../systemd"]
    destination = "/tmp/godwit/contrib/"
  }
  # The same script as for a chroot, with the machine itself as the root.
  provisioner "shell" {
    inline = [
      "chmod 755 /tmp/godwit/bin/*",
      "sh /tmp/godwit/contrib/image/bake.sh / /tmp/godwit/bin",
      "rm -rf /tmp/godwit",
    ]
  }
}
